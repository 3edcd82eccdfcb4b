"""The plan: which cells there are, in which order, under which names, and what is left out."""

from dataclasses import replace

import pytest

from dlmbench.errors import BenchError
from dlmbench.experiment import knobs as axes
from dlmbench.experiment import plan as grid
from dlmbench.types import Experiment, Grid, ModelSpec, PromptSettings, ProtocolSettings, SamplerAxes

LLAMA = ModelSpec("llama", "llama", "org/llama", "baseline")
LLADA = ModelSpec("llada", "llada", "org/llada", "target")


def experiment(*grids, models=(LLAMA, LLADA), seed=0, prompts=None):
    prompts = prompts or PromptSettings("tiny", 8)
    return Experiment("study", models, grids, prompts, ProtocolSettings(), (), seed=seed)


def one_grid(**knobs):
    swept = tuple((name, values) for name, values in knobs.items())
    samplers = (SamplerAxes("autoregressive", (("temperature", (0.0,)),)), SamplerAxes("masked_diffusion", swept))
    return Grid(((64, 64),), (1, 4), samplers, ("hf",), "float32", "auto")


def diffusion(plan):
    return [c for c in plan.cells if c.model.key == "llada"]


def test_cells_are_the_product_in_the_order_of_the_file():
    plan = grid.expand(experiment(one_grid(steps=(32, 16), block_length=(None, 16))))
    seen = [(c.batch_size, c.model.key, c.steps, c.knob("block_length")) for c in plan.cells]
    # block_length None is settled as the whole of the 64 new tokens; the last knob of the sampler varies fastest
    one = [("llama", None, None), ("llada", 32, 64), ("llada", 16, 64), ("llada", 32, 16), ("llada", 16, 16)]
    assert seen == [(batch, *rest) for batch in (1, 4) for rest in one]
    assert plan.left_out == ()


def test_each_model_meets_the_samplers_of_its_paradigm():
    plan = grid.expand(experiment(one_grid(steps=(16,))))
    assert {(c.model.key, c.sampler) for c in plan.cells} == {
        ("llama", "autoregressive"),
        ("llada", "masked_diffusion"),
    }


def test_knobs_are_settled_and_sorted():
    cell = diffusion(grid.expand(experiment(one_grid(steps=(16,)))))[0]
    assert list(cell.knobs) == sorted(cell.knobs)
    assert (cell.knob("block_length"), cell.knob("confidence_dtype")) == (64, "model")


def test_a_knob_that_the_chosen_part_lacks_makes_no_cells_of_its_own():
    plan = grid.expand(experiment(one_grid(steps=(16, 32), commit=("low_confidence", "threshold"), threshold=(0.8,))))
    first = [c for c in diffusion(plan) if c.batch_size == 1]
    assert [(c.knob("commit"), c.steps, c.knob("threshold")) for c in first] == [
        ("low_confidence", 16, None),
        ("low_confidence", 32, None),
        ("threshold", None, 0.8),
    ]


def test_what_cannot_run_is_listed_once_with_its_reason():
    plan = grid.expand(experiment(one_grid(steps=(2, 16), block_length=(16, 64))))
    assert [(o.label, o.reason) for o in plan.left_out] == [
        (
            "llada P=64 G=64 steps=2 block_length=16",
            "steps (2) is not a multiple of the number of blocks (4)",
        )
    ]
    assert len(diffusion(plan)) == 3 * 2


def test_grids_are_joined_and_equal_cells_are_one():
    same = one_grid(steps=(16, 64), block_length=(None,))
    overlapping = one_grid(steps=(64, 32), block_length=(64,))
    plan = grid.expand(experiment(same, overlapping))
    assert [c.steps for c in diffusion(plan) if c.batch_size == 1] == [16, 64, 32]
    assert len({c.id for c in plan.cells}) == len(plan.cells)


def test_ids_depend_on_the_content_alone():
    ids = [c.id for c in grid.expand(experiment(one_grid(steps=(16,)))).cells]
    assert ids == [c.id for c in grid.expand(experiment(one_grid(steps=(16,)))).cells]
    other_seed = [c.id for c in grid.expand(experiment(one_grid(steps=(16,)), seed=1)).cells]
    other_prompts = grid.expand(experiment(one_grid(steps=(16,)), prompts=PromptSettings("tiny", 9))).cells
    assert not set(ids) & (set(other_seed) | {c.id for c in other_prompts})


def test_ids_do_not_depend_on_the_name_place_and_role_of_a_model():
    known = tuple(replace(m, content=c) for m, c in ((LLAMA, "c0ffee"), (LLADA, "decade")))
    plan = grid.expand(experiment(one_grid(steps=(16,)), models=known))
    renamed = [replace(m, key=f"my-{m.key}", source="/elsewhere", revision="v2") for m in known]
    swapped = [replace(m, role=o.role) for m, o in zip(known, reversed(known), strict=True)]
    for models in (renamed, swapped):
        again = grid.expand(experiment(one_grid(steps=(16,)), models=tuple(models)))
        assert [c.id for c in again.cells] == [c.id for c in plan.cells]
        assert [c.quality_key for c in again.cells] == [c.quality_key for c in plan.cells]
    for changes in ({"content": "facade"}, {"content": None}, {"weights": "random"}):
        other = grid.expand(experiment(one_grid(steps=(16,)), models=tuple(replace(m, **changes) for m in known[:1])))
        assert not {c.id for c in other.cells} & {c.id for c in plan.cells}
    moved = [replace(m, source="/elsewhere", content="facade") for m in known]
    assert [c.model for c in grid.with_models(plan, moved).cells[:2]] == moved


def test_a_model_listed_twice_is_an_error():
    with pytest.raises(BenchError, match="models 'llama' and 'again' are the same checkpoint of org/llama"):
        grid.expand(experiment(one_grid(steps=(16,)), models=(LLAMA, LLADA, replace(LLAMA, key="again"))))


def test_an_empty_plan_is_an_error():
    only_diffusion = Grid(((8, 8),), (1,), (SamplerAxes("masked_diffusion"),), ("hf",), "float32", "auto")
    with pytest.raises(BenchError, match="nothing to run in 'study': no sampler of the grid fits"):
        grid.expand(experiment(only_diffusion, models=(LLAMA,)))


def test_an_impossible_value_is_blamed_and_not_a_bystander():
    swept = SamplerAxes("masked_diffusion", (("steps", (8, 16)), ("block_length", (48,))))
    found = axes.impossible_value(one_grid(), swept)
    assert found == ("block_length", 48, "block_length 48 does not divide the 64 new tokens")
    assert axes.impossible_value(one_grid(), SamplerAxes("masked_diffusion", (("steps", (3, 500)),))) is None


def test_texts_belong_to_their_batch_in_16_bits_and_are_shared_in_float32():
    """In bfloat16 the batch size changes texts, so each batch's own texts are generated and scored."""
    for precision, sets in (("float32", 1), ("bfloat16", 2)):
        plan = grid.expand(experiment(replace(one_grid(steps=(32,)), precision=precision), models=(LLADA,)))
        cells = plan.cells
        assert len({c.quality_key for c in cells}) == sets
        assert len({c.shape_key for c in cells}) == 1
        assert len(plan.scored_cells) == sets
