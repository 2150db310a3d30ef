"""A Hub repository in memory: commits of files, branches and tags."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property
from posixpath import basename, dirname

LFS_PATTERNS = ["*.safetensors", "*.bin", "*.pt", "*.pth", "*.npz", "*.npy", "*.parquet", "*.arrow", "*.zip", "*.gz"]
LFS_SIZE = 10_000_000
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()


class HubError(Exception):
    """An answer that is not a success, with the Hub's `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.commit = status, message, code, commit


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        head = "version https://git-lfs.github.com/spec/v1"
        return f"{head}\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()

    @cached_property
    def oid(self) -> str:
        blob = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict:
        """The file as the tree and paths-info routes list it."""
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return entry

    def sibling(self, path: str, blobs: bool) -> dict:
        """The file as the repository's information lists it."""
        if not blobs:
            return {"rfilename": path}
        sibling = {"rfilename": path, "size": len(self.content), "blobId": self.oid}
        if self.lfs:
            sibling["lfs"] = {"sha256": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return sibling


@dataclass(frozen=True)
class Commit:
    parent: "Commit | None"
    files: dict[str, File]
    title: str
    message: str
    author: str
    date: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z")

    @cached_property
    def id(self) -> str:
        tree = {path: file.oid for path, file in self.files.items()}
        parent = self.parent and self.parent.id
        what = json.dumps([parent, tree, self.title, self.message, self.author, self.date], sort_keys=True)
        return hashlib.sha1(what.encode()).hexdigest()

    def entry(self) -> dict:
        return {
            "id": self.id,
            "title": self.title,
            "message": self.message,
            "date": self.date,
            "authors": [{"user": self.author}],
        }

    def history(self) -> "list[Commit]":
        """The commit and all before it, newest first."""
        return [self, *(self.parent.history() if self.parent else [])]

    def folders(self) -> dict[str, str]:
        """Every folder with an id that changes with its content."""
        folders: dict[str, list[str]] = {}
        for path, file in self.files.items():
            folder = dirname(path)
            while folder:
                folders.setdefault(folder, []).append(path + file.oid)
                folder = dirname(folder)
        return {name: hashlib.sha1("\n".join(sorted(inside)).encode()).hexdigest() for name, inside in folders.items()}


class Repo:
    """A repository; every change of its files is one commit, done whole or not at all."""

    def __init__(self, kind: str, repo_id: str, private: bool):
        self.kind, self.id, self.private = kind, repo_id, private
        self.owner = repo_id.split("/")[0]
        self.gated: str | bool = False
        self.granted: set[str] = set()  # users beside the owner who may read a gated repository
        self.objects: dict[str, bytes] = {}  # uploaded LFS objects, committed or not
        files = {".gitattributes": File(GITATTRIBUTES)}
        if kind == "space":
            files["README.md"] = File(b"---\ntitle: New\nsdk: gradio\n---\n")
        first = Commit(None, files, "initial commit", "", self.owner)
        self.commits = {first.id: first}
        self.branches = {"main": first.id}
        self.tags: dict[str, str] = {}

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or the start of a commit id names."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        if found := self.branches.get(name) or self.tags.get(name):
            return self.commits[found]
        matches = [key for key in self.commits if len(revision) >= 7 and key.startswith(revision)]
        if len(matches) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[matches[0]]

    def file(self, revision: str, path: str) -> tuple[Commit, File]:
        commit = self.at(revision)
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", commit.id)
        return commit, commit.files[path]

    def upload_mode(self, path: str, size: int, sample: bytes) -> str:
        large = size > LFS_SIZE or b"\0" in sample or any(fnmatch(basename(path), pattern) for pattern in LFS_PATTERNS)
        return "lfs" if large else "regular"

    def commit(self, branch: str, lines: list[dict], author: str) -> Commit:
        """Apply the lines of a commit request to a branch, all or none."""
        if branch not in self.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head = self.commits[self.branches[branch]]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if not head.id.startswith(header.get("parentCommit") or head.id):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines:
            self._apply(files, line["key"], line["value"])
        commit = Commit(head, files, header["summary"], header.get("description", ""), author)
        self.commits[commit.id] = commit
        self.branches[branch] = commit.id
        return commit

    def _apply(self, files: dict[str, File], key: str, value: dict) -> None:
        path = value.get("path", "")
        match key:
            case "header":
                pass
            case "file":
                files[path] = File(base64.b64decode(value["content"]))
            case "lfsFile":
                if value["oid"] not in self.objects:
                    raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
                files[path] = File(self.objects[value["oid"]], lfs=True)
            case "deletedFile" | "deletedFolder":
                inside = [name for name in files if name.startswith(path.rstrip("/") + "/")]
                gone = inside if key == "deletedFolder" else [path]
                if not gone or not set(gone) <= set(files):
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                for name in gone:
                    del files[name]
            case _:
                raise HubError(400, f"Unknown operation: {key}")

    def info(self, commit: Commit, blobs: bool) -> dict:
        return {
            "id": self.id,
            "author": self.owner,
            "sha": commit.id,
            "lastModified": commit.date,
            "private": self.private,
            "gated": self.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [file.sibling(path, blobs) for path, file in sorted(commit.files.items())],
        }

    def refs(self) -> dict:
        def listed(kind: str, names: dict[str, str]) -> list[dict]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": at} for name, at in names.items()]

        return {
            "branches": listed("heads", self.branches),
            "tags": listed("tags", self.tags),
            "converts": [],
            "pullRequests": [],
        }

    def tree(self, commit: Commit, folder: str, recursive: bool) -> list[dict]:
        """The files and folders in a folder, directly or at any depth."""
        folders = commit.folders()
        if folder and folder not in folders:
            raise HubError(404, "Entry not found", "EntryNotFound", commit.id)
        return [
            entry
            for entry in self.paths(commit, sorted({*commit.files, *folders}))
            if (entry["path"].startswith(f"{folder}/") or not folder)
            and (recursive or dirname(entry["path"]) == folder)
        ]

    def paths(self, commit: Commit, paths: list[str]) -> list[dict]:
        """The given files and folders, those that exist."""
        folders = commit.folders()
        entries = [commit.files[path].entry(path) for path in paths if path in commit.files]
        return entries + [
            {"type": "directory", "path": path, "oid": folders[path], "size": 0} for path in paths if path in folders
        ]
