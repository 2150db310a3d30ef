"""What the Hub in `hub_server` answers on each route."""

import base64
import hashlib
import re
import secrets
from urllib.parse import parse_qs

from hub_http import Reply, Request, file_reply, json_reply
from hub_repo import HubError, Repo

_REPO = r"/api/(?P<kind>model|dataset|space)s/(?P<repo>[^/]+(?:/[^/]+)?)"
_PAGE = r"/(?:(?P<kind>dataset|space)s/)?(?P<repo>[^/]+(?:/[^/]+)?)"
_OBJECT = r"/storage/(?P<key>\w+)/(?P<kind>\w+)/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})"
# The names are what `HubServer.fail` takes; the method with the name of the route handles it
ROUTES = [
    ("whoami", "GET", r"/api/whoami-v2"),
    ("validate_yaml", "POST", r"/api/validate-yaml"),
    ("create", "POST", r"/api/repos/create"),
    ("delete", "DELETE", r"/api/repos/delete"),
    ("settings", "PUT", rf"{_REPO}/settings"),
    ("auth_check", "GET", rf"{_REPO}/auth-check"),
    ("preupload", "POST", rf"{_REPO}/preupload/(?P<revision>[^/]+)"),
    ("lfs_batch", "POST", rf"{_PAGE}\.git/info/lfs/objects/batch"),
    ("lfs_verify", "POST", rf"{_PAGE}\.git/info/lfs/objects/verify"),
    ("lfs_put", "PUT", _OBJECT),
    ("lfs_get", "GET", _OBJECT),
    ("commit", "POST", rf"{_REPO}/commit/(?P<revision>[^/]+)"),
    ("refs", "GET", rf"{_REPO}/refs"),
    ("commits", "GET", rf"{_REPO}/commits/(?P<revision>[^/]+)"),
    ("tree", "GET", rf"{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?"),
    ("paths_info", "POST", rf"{_REPO}/paths-info/(?P<revision>[^/]+)"),
    ("branch", "POST", rf"{_REPO}/branch/(?P<name>[^/]+)"),
    ("branch_delete", "DELETE", rf"{_REPO}/branch/(?P<name>[^/]+)"),
    ("tag", "POST", rf"{_REPO}/tag/(?P<revision>[^/]+)"),
    ("tag_delete", "DELETE", rf"{_REPO}/tag/(?P<name>[^/]+)"),
    ("info", "GET", rf"{_REPO}(?:/revision/(?P<revision>[^/]+))?"),
    ("resolve", "GET", rf"{_PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
]


class HubRoutes:
    """Accounts and repositories, and a method for each route that is called with what the route's pattern names."""

    user = "alice"
    url: str
    storage: str

    def __init__(self) -> None:
        self.tokens: dict[str, tuple[str, str]] = {}
        self.token = self.add_user(self.user)
        self.read_token = self.add_user(self.user, "read")
        self.repos: dict[tuple[str, str], Repo] = {}
        self._key = secrets.token_hex(8)  # stands for the signature of a storage URL

    def add_user(self, name: str, role: str = "write") -> str:
        """A new token of a user, whose role is `read` or `write`."""
        token = f"hf_{secrets.token_hex(17)}"
        self.tokens[token] = (name, role)
        return token

    def respond(self, request: Request) -> Reply:
        """Do what a request asks."""
        try:
            if request.route is None:
                raise HubError(404, "Sorry, we can't find the page you are looking for.")
            handle = getattr(self, f"_{request.route}")
            if "kind" not in request.args:
                return handle(request)
            args = {name: value for name, value in request.args.items() if name not in ("kind", "repo", "key")}
            return handle(request, self._find_repo(request), **args)
        except HubError as error:
            headers = {"X-Error-Message": error.message, "X-Error-Code": error.code, "X-Repo-Commit": error.commit}
            return json_reply({"error": error.message}, error.status, {k: v for k, v in headers.items() if v})

    def _caller(self, request: Request) -> tuple[str | None, str]:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.tokens.get(token, (None, ""))

    def _find_repo(self, request: Request) -> Repo:
        """The repository of a request, if its caller may do there what it wants."""
        kind, repo_id = request.args["kind"] or "model", request.args["repo"]
        found = self.repos.get((kind, repo_id))
        if request.route in ("lfs_put", "lfs_get"):  # the URL itself is the permission
            if request.args["key"] == self._key and found:
                return found
            raise HubError(403, "Access Denied")
        user, role = self._caller(request)
        if not found or (found.private and user != found.owner):
            # Who is not logged in does not learn whether there is such a repository
            status, message = (404, "Repository not found") if user else (401, "Invalid username or password.")
            raise HubError(status, message, "RepoNotFound")
        if request.method not in ("GET", "HEAD") and request.route != "paths_info":
            if not user:
                raise HubError(401, "Invalid username or password.")
            if (user, role) != (found.owner, "write"):
                raise HubError(403, "You must use a write token of the owner to change a repository")
        if found.gated and user not in {found.owner, *found.granted} and request.route in ("resolve", "auth_check"):
            raise HubError(403 if user else 401, f"Access to {kind} {repo_id} is restricted.", "GatedRepo")
        return found

    def _page(self, repo: Repo) -> str:
        return f"{self.url}/{'' if repo.kind == 'model' else repo.kind + 's/'}{repo.id}"

    # Accounts and repositories

    def _whoami(self, request: Request) -> Reply:
        user, role = self._caller(request)
        if not user:
            raise HubError(401, "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        return json_reply({"type": "user", "name": user, "fullname": user, "orgs": [], "auth": auth})

    def _validate_yaml(self, request: Request) -> Reply:
        """Check a card as the Hub does, which takes no local path as `base_model`."""
        front = re.match(r"---\s*\n(.*?)\n---", request.json["content"], re.DOTALL)
        listed = re.findall(r"^base_model:((?: *[^\n]+)|(?:\n *- *[^\n]+)+)", front[1] if front else "", re.MULTILINE)
        values = [line.strip(" -'\"") for block in listed for line in block.strip().splitlines()]
        errors = [
            {"message": f'"base_model" with value "{value}" is not valid. Use a model id from https://hf.co/models.'}
            for value in values
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value)
        ]
        warnings = [] if front else [{"message": "empty or missing yaml metadata in repo card"}]
        return json_reply({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def _named(self, request: Request) -> tuple[str, str]:
        user, role = self._caller(request)
        kind, owner = request.json.get("type") or "model", request.json.get("organization") or user
        if not user:
            raise HubError(401, "Invalid username or password.")
        if (owner, "write") != (user, role):
            raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        return kind, f"{owner}/{request.json['name']}"

    def _create(self, request: Request) -> Reply:
        key = self._named(request)
        exists = key in self.repos
        repo = self.repos.setdefault(key, Repo(*key, request.json.get("visibility") == "private"))
        if exists:
            message = f"You already created this {repo.kind} repo"
            return json_reply({"error": message, "url": self._page(repo)}, 409)
        return json_reply({"url": self._page(repo), "name": repo.id, "id": repo.id})

    def _delete(self, request: Request) -> Reply:
        if not self.repos.pop(self._named(request), None):
            raise HubError(404, "Repository not found", "RepoNotFound")
        return Reply()

    def _settings(self, request: Request, repo: Repo) -> Reply:
        repo.gated = request.json.get("gated", repo.gated)
        repo.private = request.json.get("visibility", "private" if repo.private else "public") == "private"
        return json_reply({"private": repo.private, "gated": repo.gated})

    def _auth_check(self, _: Request, repo: Repo) -> Reply:
        return Reply()

    # Uploads

    def _preupload(self, request: Request, repo: Repo, revision: str) -> Reply:
        present = repo.at(revision).files
        files = [
            {
                "path": file["path"],
                "uploadMode": repo.upload_mode(file["path"], file["size"], base64.b64decode(file["sample"])),
                "shouldIgnore": False,
                "oid": present[file["path"]].etag if file["path"] in present else None,
            }
            for file in request.json["files"]
        ]
        return json_reply({"files": files})

    def _lfs_batch(self, request: Request, repo: Repo) -> Reply:
        objects = request.json["objects"]
        for one in objects:
            if one["oid"] not in repo.objects:
                put = {"href": f"{self.storage}/{repo.kind}/{repo.id}/{one['oid']}"}
                verify = {"href": f"{self._page(repo)}.git/info/lfs/objects/verify"}
                one["actions"] = {"upload": put, "verify": verify}
        return json_reply({"transfer": "basic", "objects": objects})

    def _lfs_put(self, request: Request, repo: Repo, oid: str) -> Reply:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise HubError(400, "The content is not what was announced")
        repo.objects[oid] = request.body
        return Reply()

    def _lfs_verify(self, request: Request, repo: Repo) -> Reply:
        if len(repo.objects.get(request.json["oid"], b"")) != request.json["size"]:
            raise HubError(404, "Object does not exist")
        return json_reply({})

    def _commit(self, request: Request, repo: Repo, revision: str) -> Reply:
        if "create_pr" in request.query:
            raise HubError(400, "Pull requests are not part of this server")
        commit = repo.commit(revision, request.lines, self._caller(request)[0] or "")
        url = f"{self._page(repo)}/commit/{commit.id}"
        return json_reply({"success": True, "commitOid": commit.id, "commitUrl": url, "hookOutput": ""})

    # Reading

    def _info(self, request: Request, repo: Repo, revision: str | None) -> Reply:
        return json_reply(repo.info(repo.at(revision or "main"), "blobs" in request.query))

    def _commits(self, _: Request, repo: Repo, revision: str) -> Reply:
        return json_reply([commit.entry() for commit in repo.at(revision).history()])

    def _tree(self, request: Request, repo: Repo, revision: str, path: str | None) -> Reply:
        return json_reply(repo.tree(repo.at(revision), path or "", request.query.get("recursive") == ["true"]))

    def _paths_info(self, request: Request, repo: Repo, revision: str) -> Reply:
        return json_reply(repo.paths(repo.at(revision), parse_qs(request.body.decode()).get("paths", [])))

    def _resolve(self, request: Request, repo: Repo, revision: str, path: str) -> Reply:
        commit, file = repo.file(revision, path)
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.etag}"'}
        if not file.lfs:
            return file_reply(file.content, request.headers.get("range"), headers)
        headers["Location"] = f"{self.storage}/{repo.kind}/{repo.id}/{file.sha256}"
        linked = {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        return Reply(302, b"", {**headers, **linked})

    def _lfs_get(self, request: Request, repo: Repo, oid: str) -> Reply:
        if oid not in repo.objects:
            raise HubError(404, "NoSuchKey")
        return file_reply(repo.objects[oid], request.headers.get("range"), {"ETag": f'"{oid}"'})

    # Branches and tags

    def _refs(self, _: Request, repo: Repo) -> Reply:
        return json_reply(repo.refs())

    def _branch(self, request: Request, repo: Repo, name: str) -> Reply:
        return self._new_ref(repo.branches, name, repo.at(request.json.get("startingPoint", "main")).id)

    def _tag(self, request: Request, repo: Repo, revision: str) -> Reply:
        return self._new_ref(repo.tags, request.json["tag"], repo.at(revision).id)

    def _new_ref(self, names: dict[str, str], name: str, commit_id: str) -> Reply:
        if name in names:
            raise HubError(409, f"Reference already exists: {name}")
        names[name] = commit_id
        return Reply()

    def _branch_delete(self, _: Request, repo: Repo, name: str) -> Reply:
        if name == "main":
            raise HubError(403, "The branch main cannot be deleted")
        return self._no_ref(repo.branches, name)

    def _tag_delete(self, _: Request, repo: Repo, name: str) -> Reply:
        return self._no_ref(repo.tags, name)

    def _no_ref(self, names: dict[str, str], name: str) -> Reply:
        if not names.pop(name, None):
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return Reply()
