"""The how-tos for model libraries: many callers at once get what the library answers alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.gated import until
from tests.howto.sites import Held, page
from tidegate import Batcher, ModelError, ModelPool, TensorSpec

CALLERS = 24


def many_callers(batcher: Batcher, model: Held, rows: Any) -> list[Any]:
    """The answers to rows that wait for the model together."""
    model.shut()
    with ThreadPoolExecutor(len(rows)) as threads:
        futures = [threads.submit(batcher, row) for row in rows]
        until(lambda: model.rows_seen + batcher.statistics().queue_depth == len(rows))
        model.gate.set()
        answers = [future.result() for future in futures]
    assert max(map(len, model.batches)) >= len(rows) // 2
    return answers


def check(load: Callable[[], Any], warm_up: Callable[[Any], object], width: int, seed: int) -> None:
    """What a page loads answers many callers as it answers alone, whatever the batch."""
    held: list[Held] = []

    def load_held() -> Held:
        held.append(Held(load()))
        return held[-1]

    rows = np.random.default_rng(seed).standard_normal((CALLERS, width)).astype(np.float32)
    pool = ModelPool(load_held, warmup=warm_up)
    assert {len(batch) for batch in held[0].batches} == {1, 64}
    with Batcher(pool, inputs=TensorSpec((width,), "float32"), max_batch_size=64) as batcher:
        answers = many_callers(batcher, held[0], rows)
        assert np.allclose(batcher(rows[0].tolist()), answers[0], atol=1e-5)
        two = batcher.submit_many(rows[:2].astype(np.float64)).result()
    assert np.allclose(answers, load()(rows), atol=1e-5)
    assert np.allclose(two, answers[:2], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "width"),
    [("models.md", 3), ("onnxruntime.md", 3), ("pytorch.md", 3), ("xgboost.md", 4)],
)
def test_many_callers_get_what_the_library_answers_alone(name: str, width: int) -> None:
    namespace = page(name)
    check(namespace["load"], namespace["warm_up"], width, seed=len(name))


def test_two_instances_share_an_onnx_session() -> None:
    namespace = page("onnxruntime.md")
    shared = namespace["model"]
    rows = np.random.default_rng(1).standard_normal((200, 3)).astype(np.float32)
    pool = ModelPool([shared, shared])
    with (
        Batcher(pool, inputs=namespace["specs"]) as batcher,
        ThreadPoolExecutor(CALLERS) as threads,
    ):
        answers = list(threads.map(lambda row: batcher({"x": row}), rows))
    expected = shared({"x": rows})
    for name, column in expected.items():
        assert np.allclose([answer[name] for answer in answers], column, atol=1e-6)


def test_an_xgboost_row_may_miss_values() -> None:
    namespace = page("xgboost.md")
    booster = namespace["trained"]
    row = np.array([1, np.nan, 0, np.nan], np.float32)
    with Batcher(booster.inplace_predict, inputs=TensorSpec((4,), "float32")) as batcher:
        assert batcher(row.tolist()) == booster.inplace_predict(row[np.newaxis])[0]


def test_scikit_learn_answers_many_callers_and_fails_a_batch_with_nan() -> None:
    estimator = page("scikit-learn.md")["estimator"]
    model = Held(estimator.predict_proba)
    rows = np.random.default_rng(2).standard_normal((CALLERS, 4))
    with Batcher(model, inputs=TensorSpec((4,), "float64")) as batcher:
        assert np.allclose(many_callers(batcher, model, rows), estimator.predict_proba(rows))
        with pytest.raises(ModelError, match="NaN"):
            batcher([0, np.nan, 0, 0])


def test_texts_of_many_callers_make_a_batch_and_one_that_is_none_fails_alone() -> None:
    namespace = page("scikit-learn.md")
    model = Gatekeeper(namespace["topic"])
    texts: list[Any] = ["the cake", "a ship", "sugar and cake", "port"] * 3
    with Batcher(model, collate="list") as batcher:
        with ThreadPoolExecutor(len(texts)) as threads:
            futures = [threads.submit(batcher, text) for text in texts]
            until(lambda: model.seen + batcher.statistics().queue_depth == len(texts))
            model.gate.set()
            topics = [future.result() for future in futures]
        assert topics == namespace["pipeline"].predict(texts).tolist()
        with pytest.raises(TypeError, match="not list"):
            batcher(["no", "text"])


class Gatekeeper:
    """A model of objects, each batch only once the gate is open."""

    def __init__(self, model: Callable[[list[Any]], list[Any]]) -> None:
        self.gate = threading.Event()
        self.seen = 0
        self._model = model

    def __call__(self, rows: list[Any]) -> list[Any]:
        """The model."""
        self.seen += len(rows)
        assert self.gate.wait(20)
        return self._model(rows)


def test_a_model_that_is_bound_to_a_thread_is_made_and_called_there_alone() -> None:
    namespace = page("models.md")
    made = []

    def load() -> Any:
        made.append(threading.get_ident())
        return namespace["load_and_stay"]()  # asserts that no other thread calls it

    bound = namespace["Bound"](load)
    for pool in (bound, ModelPool([bound, bound])):
        made.clear()
        with Batcher(pool, inputs=TensorSpec((3,), "float32"), caller_runs=False) as batcher:
            for _ in range(20):
                assert np.array_equal(batcher([1, 2, 3]), [4, 5])  # alone, as a leader would be
            with ThreadPoolExecutor(CALLERS) as threads:
                answers = list(threads.map(batcher, np.ones((200, 3))))
        assert np.array_equal(answers, [[2, 2]] * 200)
        assert len(made) <= (1 if pool is bound else 2)
        assert threading.get_ident() not in made


def test_a_borrowed_instance_is_not_called_by_its_batcher_meanwhile() -> None:
    namespace = page("models.md")
    model = Held(namespace["load"]())
    pool = ModelPool([model])
    with Batcher(pool, inputs=TensorSpec((3,), "float32")) as batcher:
        with pool.acquire() as borrowed:
            future = batcher.submit([1, 2, 3])
            assert borrowed is model
            borrowed(np.zeros((1, 3), np.float32))
            assert not future.done()
            assert model.rows_seen == 1
        assert np.array_equal(future.result(), [4, 5])


def test_torch_settings_that_the_page_warns_of_do_not_reach_the_executor() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is too large for CI")
    layer = torch.nn.Linear(3, 2)
    seen = []

    def model(batch: Any) -> Any:
        seen.append((layer(torch.from_numpy(batch)).requires_grad, torch.get_num_threads()))
        return batch

    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with torch.inference_mode(), Batcher(model, caller_runs=False) as batcher:
            batcher(np.zeros(3, np.float32))
    finally:
        torch.set_num_threads(threads)
    assert seen == [(True, 3)]
