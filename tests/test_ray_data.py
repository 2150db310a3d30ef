"""Prediction on Ray: what an actor does, without Ray; and slow, a cluster of two nodes of which all parts are killed.

Ray has an environment of its own, which RAY_PYTHON names (CONTRIBUTING.md).
"""

import json
import os
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sessions
from conftest import make_rows, write_jsonl
from pyarrow import parquet
from test_batches import Fails
from test_classifier import save_folder
from test_shards import LABELS, ByLength

from hf_causal_clf import TextClassifier, ray_data
from hf_causal_clf.data.pieces import cut, index_file
from hf_causal_clf.ray_data import ActorPool, predict_on_ray
from hf_causal_clf.shards import finish_prediction, predict_shards, shard_path, start_prediction

ROOT = Path(__file__).parents[1]
ROWS = [{"key": f"k{row}", "text": "x" * (1 + row % 10)} for row in range(37)]


class Killed(BaseException):
    """The end of an actor's process."""


@pytest.fixture
def cluster(monkeypatch):
    """In the place of Ray: actors of this process, one after the other, and as many new ones as die."""

    class Cluster:
        scorer = ByLength()
        asked = ()

    def predicted(step, pieces, pool):
        Cluster.asked = [piece.index for piece in pieces]
        for piece in pieces:
            found = None
            while found is None:
                with suppress(Killed):
                    found = ray_data._Actor(step, 1)({"piece": [json.dumps(asdict(piece))]})
            if found["error"][0]:
                raise ValueError(found["error"][0])
            yield found["index"][0], ray_data.ShardRows(found["number"][0], found["ids"][0])

    monkeypatch.setattr(ray_data, "map_on_ray", lambda function, given: list(map(function, given)))
    monkeypatch.setattr(ray_data, "_predicted", predicted)
    monkeypatch.setattr(
        TextClassifier, "from_pretrained", lambda *args, **options: TextClassifier(Cluster.scorer, LABELS)
    )
    return Cluster


def predict(tmp_path, **options):
    file = write_jsonl(tmp_path / "documents.jsonl", options.pop("rows", ROWS))
    (tmp_path / "out").mkdir(exist_ok=True)
    pieces = cut([index_file(file, 10, ["text", "key"])], 10)
    columns = {"text_column": "text", "id_column": "key", "id_type": str}
    return predict_on_ray("run", pieces, tmp_path / "out", **columns, pool=ActorPool(), **options)


def test_shards_are_those_of_the_other_engine_and_finished_ones_are_left_out(tmp_path, cluster):
    shards = predict(tmp_path)
    assert cluster.asked == [0, 1, 2, 3]
    times = {index: shard_path(tmp_path / "out", index).stat().st_mtime_ns for index in range(4)}
    shard_path(tmp_path / "out", 2).unlink()
    assert predict(tmp_path) == shards
    assert cluster.asked == [2]
    assert all(shard_path(tmp_path / "out", row).stat().st_mtime_ns == times[row] for row in (0, 1, 3))
    start_prediction(tmp_path / "other", {}, {})
    rows = ((row["key"], row["text"]) for row in ROWS)
    same = predict_shards(
        lambda: TextClassifier(ByLength(), LABELS), rows, tmp_path / "other", shard_size=10, empty="keep"
    )
    assert same == shards
    assert finish_prediction(tmp_path / "other", same, LABELS).rows == 37
    for index in range(4):
        assert shard_path(tmp_path / "out", index).read_bytes() == shard_path(tmp_path / "other", index).read_bytes()


def test_a_finished_shard_with_other_rows_is_noticed(tmp_path, cluster):
    predict(tmp_path)
    path = shard_path(tmp_path / "out", 1)
    parquet.write_table(parquet.read_table(path).slice(1), path)
    with pytest.raises(ValueError, match=r"shard-000001\.parquet has other rows .* 9 instead of 10"):
        predict(tmp_path)


def test_documents_that_fail_are_named_in_a_file(tmp_path, cluster):
    cluster.scorer = Fails("poison")
    rows = [*ROWS[:15], {"key": "bad", "text": "poison"}, {"key": "worse", "text": 5}, *ROWS[15:]]
    with pytest.raises(RuntimeError, match="cannot be read"):
        predict(tmp_path, rows=[*rows[:16], *rows[17:]])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["shard-000000.parquet"]
    shards = predict(tmp_path, rows=rows, on_error="record")
    assert cluster.asked == [1, 2, 3]  # what was finished before stays
    lines = (tmp_path / "out" / "_errors-000001.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "bad", "row": 15, "error": "RuntimeError: cannot be read"},
        {"id": "worse", "row": 16, "error": "5 of type int instead of a text"},
    ]
    start_prediction(tmp_path / "note", {}, {})
    (tmp_path / "note" / "_prediction.json").rename(tmp_path / "out" / "_prediction.json")
    found = finish_prediction(tmp_path / "out", shards, LABELS)
    assert (found.rows, found.unanswered, found.failed) == (39, 2, 2)
    assert str(found).endswith(", not predicted, for the reasons in _errors-*.jsonl, 2")
    table = pd.read_parquet(tmp_path / "out")
    assert list(table["id"]) == [row["key"] for row in rows]
    assert list(np.flatnonzero(table["predicted"].isna())) == [15, 16]
    shard_path(tmp_path / "out", 1).unlink()
    cluster.scorer = ByLength()
    predict(tmp_path, rows=[*rows[:16], {"key": "worse", "text": "x"}, *rows[17:]], on_error="record")
    assert not list((tmp_path / "out").glob("_errors-*"))  # a file of a shard that is gone goes with it


def test_a_document_that_ends_actors_again_and_again_ends_the_job(tmp_path, cluster):
    class Deadly(ByLength):
        deaths = 0

        def logits(self, texts):
            if len(self.texts) + len(texts) > 10:
                Deadly.deaths += 1
                raise Killed
            return super().logits(texts)

    cluster.scorer = Deadly()
    with pytest.raises(ValueError, match=r"5 actors have died while they predicted rows 10 to 19.*documents\.jsonl'"):
        predict(tmp_path)
    assert Deadly.deaths == 5
    cluster.scorer = ByLength()
    predict(tmp_path)  # a driver that starts again does not count what was
    assert cluster.asked == [1, 2, 3]
    assert not list((tmp_path / "out").glob(".*"))


def test_the_figures_on_paper_are_what_their_lines_print(capsys):
    page = (ROOT / "recipes" / "SERVING.md").read_text()
    (block,) = re.findall(r"```python\n(cpu = .*?)```", page, re.DOTALL)
    exec(block, {})
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 3
    assert all(f"\n{row}\n" in page for row in rows)


PYTHON = os.environ.get("RAY_PYTHON")


def environment():
    # Ray's own Python, and what is tested
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def start(*command, log):
    with log.open("w") as output:
        options = {"env": environment(), "stdout": output, "stderr": output, "start_new_session": True}
        return subprocess.Popen(list(map(str, command)), **options)


def wait_for(condition, process, log, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.2)


@pytest.fixture
def nodes(tmp_path):
    """A cluster of two nodes with a CPU each; yields its address and the processes that lead their sessions."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ray = [Path(PYTHON).with_name("ray"), "start", "--num-cpus=1", "--object-store-memory=80000000", "--block"]
    port = address.partition(":")[2]
    logs = [tmp_path / "head.log", tmp_path / "worker.log"]
    started = [start(*ray, "--head", f"--port={port}", "--include-dashboard=false", log=logs[0])]
    try:
        wait_for(lambda: "Ray runtime started" in logs[0].read_text(), started[0], logs[0])
        started.append(start(*ray, f"--address={address}", log=logs[1]))
        wait_for(lambda: "Ray runtime started" in logs[1].read_text(), started[1], logs[1])
        yield address, started
    finally:
        for process in reversed(started):
            sessions.kill(process.pid)
            process.wait()


def actors(node):
    """The actors of a node."""
    found = set()
    for process in sessions.running(node.pid):
        with suppress(OSError):
            if b"ray::MapWorker" in Path(f"/proc/{process}/cmdline").read_bytes():
                found.add(process)
    return found


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="RAY_PYTHON names no Python that has Ray")
def test_a_cluster_of_which_all_parts_are_killed(checkpoint, tmp_path, nodes):
    address, machines = nodes
    save_folder(tmp_path / "run", checkpoint, "embedding")
    rows = [{"key": f"k{index}", **row} for index, row in enumerate(make_rows(8000))]
    (tmp_path / "documents").mkdir()
    for part in range(4):
        write_jsonl(tmp_path / "documents" / f"{part}.jsonl", rows[2000 * part : 2000 * (part + 1)])
    common = [
        "recipes/predict.py",
        "--model_name_or_path",
        tmp_path / "run",
        "--id_column",
        "key",
        "--shard_size",
        "100",
    ]
    common = [ROOT / common[0], *common[1:], "--test_file", tmp_path / "documents"]
    subprocess.run([PYTHON, *map(str, [*common, "--output_dir", tmp_path / "alone"])], env=environment(), check=True)
    output, log = tmp_path / "out", tmp_path / "driver.log"
    command = [PYTHON, *common, "--output_dir", output, "--engine", "ray", "--ray_address", address]

    def finished():
        return sorted(output.glob("shard-*.parquet"))

    driver = start(*command, log=log)
    try:
        wait_for(lambda: len(finished()) >= 4 and any(map(actors, machines)), driver, log)
        killed = next(iter(next(filter(None, map(actors, machines)))))
        os.kill(killed, signal.SIGKILL)
        there = len(finished())
        wait_for(lambda: len(finished()) >= there + 4 and actors(machines[1]), driver, log)
        assert killed not in actors(machines[0]) | actors(machines[1])
        sessions.kill(machines[1].pid)
        there = len(finished())
        wait_for(lambda: len(finished()) >= there + 4, driver, log)
    finally:
        sessions.kill(driver.pid)
        driver.wait()
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished()}
    assert 12 <= len(before) < 80
    again = start(*command, log=log)
    assert again.wait(600) == 0, log.read_text()[-3000:]
    assert f"{len(before)} of 80 shards are there: going on" in log.read_text()
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before
    expected, found = pd.read_parquet(tmp_path / "alone"), pd.read_parquet(output)
    assert list(found["id"]) == list(expected["id"]) == [row["key"] for row in rows]
    assert list(found["predicted"]) == list(expected["predicted"])
    probabilities = [pd.DataFrame(list(each["probabilities"])) for each in (found, expected)]
    np.testing.assert_allclose(*probabilities, atol=1e-6)
    assert sorted(path.name for path in output.iterdir() if not path.name.startswith("shard-")) == ["_prediction.json"]
