"""Modules that run in place of the stage ppo: their results are told apart, and mistakes are really made."""

import pytest
import torch

from rlhf.models import load_scorer
from stages.common.decisions import CODE_CHANGED, options_of, plan
from stages.common.request import Request
from stages.experiments.__main__ import load, names
from stages.experiments.faults.value_from_scratch import make_new
from tests.classifiers import tiny_classifier
from tests.forks import ROOT
from tests.pipeline import TOY

MODULES = sorted({variant.module for name in names() for variant in load(name).variants() if variant.module})


@pytest.mark.slow
@pytest.mark.parametrize("module, reasons", [*((name, [CODE_CHANGED]) for name in MODULES), (None, [])])
def test_the_result_of_ppo_is_not_taken_for_that_of_a_module_in_its_place(toy_run, tmp_path, module, reasons):
    request = Request.read("ppo", {"RECIPE": TOY, "RUN": str(tmp_path / "variant"), "BASE": str(toy_run)})
    request.modules = {"ppo": module} if module else {}
    assert plan(request, options_of(request))[-1].reasons == reasons


@pytest.mark.parametrize("module", MODULES)
def test_the_record_of_such_a_run_has_the_code_of_the_module(module):
    path = ROOT / "stages" / f"{module.replace('.', '/')}.py"
    assert path.read_text(encoding="utf-8").endswith(f'    main("ppo", work, "{module}")\n')


def test_a_value_model_from_scratch_has_no_weight_of_the_reward_model_and_values_of_zero(tmp_path):
    classifier = tiny_classifier()
    classifier.config.score_mean = 1.5
    classifier.save_pretrained(tmp_path)
    scorer = load_scorer(tmp_path)
    before = {name: weight.detach().clone() for name, weight in scorer.named_parameters()}
    make_new(scorer)
    same = [n for n, weight in scorer.named_parameters() if weight.dim() == 2 and torch.equal(before[n], weight)]
    assert same == []
    tokens = torch.arange(6).view(2, 3)
    assert scorer(tokens, torch.ones_like(tokens)).abs().max() == 0
