"""Modules that run in place of a stage: their results are told apart, and mistakes are really made."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

from rlhf.models import load_scorer
from stages.common.decisions import CODE_CHANGED, options_of, plan
from stages.common.request import Request
from stages.experiments.__main__ import load, names
from stages.experiments.faults.value_activations import squash
from stages.experiments.faults.value_from_scratch import make_new
from stages.experiments.pretraining.adam import adam
from stages.experiments.pretraining.muon import create_optimizer, muon
from tests.classifiers import tiny_classifier
from tests.conftest import tiny_gpt2
from tests.forks import ROOT
from tests.pipeline import TOY

EXPERIMENTS = map(load, names())
# the stage, and the module in its place
MODULES = sorted({(v.stage, v.module) for module in EXPERIMENTS for v in module.variants() if v.module})
MODULES.append(("pretrain", "experiments.pretraining.in_order"))  # which `optimisers` runs after its other variants
ARGUMENTS = SimpleNamespace(learning_rate=0.01, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, module, reasons",
    [*((*pair, [CODE_CHANGED]) for pair in MODULES), ("ppo", None, []), ("pretrain", None, [])],
)
def test_the_result_of_a_stage_is_not_taken_for_that_of_a_module_in_its_place(
    toy_run, tmp_path, stage, module, reasons
):
    request = Request.read(stage, {"RECIPE": TOY, "RUN": str(tmp_path / "variant"), "BASE": str(toy_run)})
    request.modules = {stage: module} if module else {}
    assert plan(request, options_of(request))[-1].reasons == reasons


@pytest.mark.parametrize("stage, module", MODULES)
def test_the_record_of_such_a_run_has_the_code_of_the_module(stage, module):
    path = ROOT / "stages" / f"{module.replace('.', '/')}.py"
    assert path.read_text(encoding="utf-8").endswith(f'    main("{stage}", work, "{module}")\n')


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


@pytest.mark.parametrize("activation, lowest, highest", [(torch.sigmoid, 0, 1), (torch.relu, 0, 100)])
def test_a_value_head_with_an_activation_expresses_no_value_outside_its_range(tmp_path, activation, lowest, highest):
    tiny_classifier().save_pretrained(tmp_path)
    scorer = load_scorer(tmp_path)
    torch.nn.init.normal_(scorer.head.weight, std=10)
    tokens = torch.arange(40).view(4, 10)
    before = scorer(tokens, torch.ones_like(tokens))
    assert before.min() < 0 and before.max() > 1
    squash(scorer, activation)
    after = scorer(tokens, torch.ones_like(tokens))
    assert lowest <= after.min() and after.max() <= highest
    torch.testing.assert_close(after, activation(before))


def test_muon_trains_the_matrices_of_the_blocks_and_adamw_all_other_parameters_once():
    model = tiny_gpt2()
    optimizer = muon(model, ARGUMENTS)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_muon, by_adamw = (
        [names[id(p)] for g in part.param_groups for p in g["params"]] for part in optimizer.optimizers
    )
    assert sorted(by_muon + by_adamw) == sorted(names.values())
    blocks = len(model.transformer.h)
    assert len(by_muon) == 4 * blocks  # attention in and out, MLP in and out
    assert all(".h." in name and name.endswith("weight") for name in by_muon)
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= set(by_adamw)


def loss_of(model):
    tokens = torch.arange(12).view(2, 6)
    return model(input_ids=tokens, labels=tokens).loss


def test_muon_follows_the_schedule_lowers_the_loss_and_goes_on_from_its_saved_state():
    model = tiny_gpt2()
    trainer = SimpleNamespace(optimizer=None, model=model, args=ARGUMENTS)
    optimizer = create_optimizer(trainer)
    assert create_optimizer(trainer) is optimizer
    first = loss_of(model)
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert loss_of(model) < first
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    other_model = tiny_gpt2()
    other_model.load_state_dict(model.state_dict())
    resumed = muon(other_model, ARGUMENTS)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))  # as from a file: torch shares the tensors otherwise
    for of_model, parts in ((model, optimizer), (other_model, resumed)):
        parts.zero_grad()
        loss_of(of_model).backward()
        torch.optim.lr_scheduler.LambdaLR(parts, lambda step: 0.5)
        assert {g["lr"] for part in parts.optimizers for g in part.param_groups} == {0.005}
        parts.step()
    for before, one, other in zip(weights, model.parameters(), other_model.parameters(), strict=True):
        assert not torch.equal(before, one)
        assert torch.equal(one, other)


def test_adam_adds_the_decay_to_the_gradient_so_that_its_size_does_not_depend_on_the_weight():
    weights = torch.nn.Parameter(torch.tensor([1.0, 4.0]))
    kind, options = adam(ARGUMENTS)
    weights.grad = torch.zeros(2)
    kind([{"params": [weights], "weight_decay": 0.1}], **options).step()
    # the first step of Adam is the learning rate, whatever the size of the gradient; AdamW takes 0.001 of the weight
    torch.testing.assert_close(weights.detach(), torch.tensor([0.99, 3.99]))
