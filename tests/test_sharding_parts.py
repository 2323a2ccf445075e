"""What FSDP2 changes inside a process, in a group of one: whole tensors, passes without weight gradients, refusals."""

import copy

import methods
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from diffusion.sharding import divided_like, frozen_pass, gathered, is_divided, whole
from lightning_modules.sharding import check_divisible, divide
from networks import MLP


@pytest.fixture
def group():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def network(**options):
    torch.manual_seed(0)
    net = MLP((1, 4, 4), width=16, depth=2, embedding_channels=8, **options)
    for parameter in net.parameters():  # none starts at zero, so that all have a gradient
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def divided(net):
    mesh = init_device_mesh("cpu", (1,))
    for part in (*net.first, *net.second, net):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return net


def test_a_frozen_pass_gives_its_input_a_gradient_and_its_weights_none(group):
    """Between two passes that give them one, as in BCM; functional_call with detached weights would give it to them,
    since FSDP2 puts its own in their place."""
    plain, x, level = network(), torch.randn(5, 1, 4, 4), torch.linspace(-1, 1, 5)
    sharded, grads = divided(copy.deepcopy(plain)), {}
    for net in (plain, sharded):
        at = net(x, level)
        ((frozen_pass(net, at, level) - net(x, level + 1)) ** 2).sum().backward()
        grads[net] = {name: whole(p.grad) for name, p in net.named_parameters()}
    for name, expected in grads[plain].items():
        assert expected.abs().max() > 0
        torch.testing.assert_close(grads[sharded][name], expected)
    frozen_pass(sharded, x.requires_grad_(), level).sum().backward()
    assert all(torch.equal(whole(p.grad), grads[sharded][name]) for name, p in sharded.named_parameters())
    assert x.grad.abs().max() > 0


def test_gathered_weights(group):
    """Plain inside the block, also under inference_mode, and trained as before after it."""
    plain, x, level = network(), torch.randn(5, 1, 4, 4), torch.linspace(-1, 1, 5)
    net = divided(copy.deepcopy(plain))
    assert is_divided(net) and not is_divided(plain)
    with torch.inference_mode(), gathered(net), gathered(plain):
        assert not any(isinstance(p, DTensor) for p in net.parameters())
        torch.testing.assert_close(net(x, level), plain(x, level))
        assert not any(isinstance(p, DTensor) for p in net.parameters())
    assert all(isinstance(p, DTensor) for p in net.parameters())
    for model in (plain, net):
        model(x, level).square().sum().backward()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(whole(p.grad), q.grad)


def test_weights_that_are_read_when_they_are_divided(group):
    """Also where a second level is added."""
    source = network().state_dict()
    net = divided(network(bidirectional=True))
    own = net.state_dict()
    net.load_unidirectional({key: divided_like(value, own[key]) for key, value in source.items()})
    plain = network(bidirectional=True)
    plain.load_unidirectional(source)
    for key, value in plain.state_dict().items():
        assert torch.equal(whole(net.state_dict()[key]), value)


def test_all_denoisers_of_a_module_are_divided(group):
    """The student's, its averages' and its target's."""
    module = methods.ct(target_rate=lambda progress: 0.9, ema_rates=[0.9, 0.99])
    divide(module, "cpu")
    assert all(isinstance(p, DTensor) for p in module.parameters())


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (methods.ufogen, {}, "FullySharded takes methods of one network, and a UFOGenModule has two"),
        (methods.ct, {"compile": True}, "set --model.init_args.compile false"),
        (methods.ctm, {"adaptive": True}, "set --model.init_args.adaptive false"),
    ],
)
def test_what_cannot_be_divided_is_told(make, options, said):
    with pytest.raises(ValueError, match=said):
        check_divisible(make(**options))
    check_divisible(methods.bcm())
