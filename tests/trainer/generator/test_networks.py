"""The U-Nets: what they cost, and what they listen to."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from trainer.encoder.profiles import changed  # noqa: E402
from trainer.generator.diffusion import Edm, LogNormal  # noqa: E402
from trainer.generator.networks import (  # noqa: E402
    CheapDropout,
    UNet,
    UNetConfig,
    attended,
    count_macs,
    count_weights,
    tokens_of,
)
from trainer.generator.profiles import (  # noqa: E402
    PROFILES,
    config_named,
    diffusion_of,
    profile_named,
)

SMALL = UNetConfig(widths=(32, 64), n_blocks=1, n_attending=1, n_embedding=64)


def awake(config: UNetConfig) -> UNet:
    """Return a network none of whose layers is silent, as they are at first."""
    torch.manual_seed(0)
    network = UNet(config).eval()
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(torch.randn_like(weights) * 0.05)
    return network


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_nano_paints_on_a_cpu(profile: str) -> None:
    """At most 1.3 billion multiplications a call, and 20 MB of fp16 weights."""
    network = UNet(config_named(PROFILES[profile], "nano"))
    one = (torch.zeros(1, 3, 64, 64), torch.zeros(1), torch.zeros(1, 512))
    assert count_macs(network, *one) <= 1.3e9
    assert count_weights(network) * 2 <= 20e6


def test_a_new_network_answers_nothing() -> None:
    """Training begins at the best linear denoiser, whatever it hears."""
    answer = UNet(SMALL)(torch.randn(2, 3, 64, 64), torch.zeros(2), torch.randn(2, 512))
    assert answer.shape == (2, 3, 64, 64)
    assert not answer.any()


@pytest.mark.parametrize("learnt_resampling", [False, True])
def test_it_listens_to_level_call_and_augmentation(learnt_resampling: bool) -> None:
    """Another noise level, another call or another augmentation give another answer."""
    config = UNetConfig((32, 64), 1, 1, n_embedding=64, learnt_resampling=learnt_resampling)
    network, image = awake(config), torch.randn(1, 3, 64, 64)
    level, call, none = torch.zeros(1), torch.randn(1, 512), torch.zeros(1, 4)
    with torch.inference_mode():
        answer = network(image, level, call, none)
        torch.testing.assert_close(network(image, level, call), answer)
        others = [
            network(image, level + 30, call, none),
            network(image, level, call.flip(1), none),
            network(image, level, call, none + 1),
        ]
    assert all(float((other - answer).abs().max()) > 1e-3 for other in others)


def test_an_image_does_not_see_its_neighbours() -> None:
    """A batch gives what its images give alone."""
    network = awake(SMALL)
    batch = (torch.randn(3, 3, 64, 64), torch.tensor([1.0, 2.0, 3.0]), torch.randn(3, 512))
    with torch.inference_mode():
        alone = torch.cat([network(*(part[[i]] for part in batch)) for i in range(3)])
        torch.testing.assert_close(network(*batch), alone, atol=1e-4, rtol=1e-4)


def test_a_token_is_a_place_of_the_last_map() -> None:
    """Value (channel, row, column), at channel · 4 + row · 2 + column, is token (row, column)'s."""
    last_map = torch.arange(512.0).reshape(1, 128, 2, 2)
    tokens = tokens_of(last_map.reshape(1, 512))
    assert tokens.shape == (1, 4, 128)
    for token, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        torch.testing.assert_close(tokens[0, token], last_map[0, :, row, column])


def test_multiplications_are_counted() -> None:
    """A 3×3 convolution of 2 to 5 channels on 8×8, and a linear layer: by hand."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 5, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(320, 7)
    )
    assert count_macs(network, torch.zeros(3, 2, 8, 8)) == 64 * 5 * 2 * 9 + 320 * 7


def test_unknown_names_are_refused_with_the_nearest() -> None:
    """A slip of the keyboard is answered with what was probably meant."""
    with pytest.raises(ValueError, match="did you mean 'field'"):
        profile_named("fild")
    with pytest.raises(ValueError, match="size is 'huge'; one of nano, small, base"):
        config_named(PROFILES["field"], "huge")


def test_attention_is_what_torch_calls_attention() -> None:
    """The same as the fused one, which is slower where it matters."""
    query, key, value = torch.randn(3, 2, 4, 10, 16).unbind()
    fused = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attended(query, key, value), fused)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    """A tenth of the values, anew each time, decided by torch's seed; none outside training."""
    dropout, ones = CheapDropout(0.1), torch.ones(4, 32, 16, 16)
    torch.manual_seed(1)
    first, second = dropout(ones), dropout(ones)
    assert float((first == 0).float().mean()) == pytest.approx(26 / 256, abs=0.01)
    assert float(first.mean()) == pytest.approx(1.0, abs=0.01)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    torch.testing.assert_close(dropout(ones), first)
    assert dropout.eval()(ones) is ones


def test_an_ablation_changes_one_value() -> None:
    """What `--change` names, and nothing else; what it cannot name is refused."""
    field = PROFILES["field"]
    wider = changed(field, ["noise.std=1.6", "dropout=0"])
    assert wider == replace(field, noise=LogNormal(field.noise.mean, 1.6), dropout=0.0)
    assert config_named(wider, "nano") == replace(config_named(field, "nano"), dropout=0.0)
    assert diffusion_of(wider, 0.4) == Edm(0.4, wider.noise)
    with pytest.raises(ValueError, match="no 'nose' here"):
        changed(field, ["nose.std=1"])
