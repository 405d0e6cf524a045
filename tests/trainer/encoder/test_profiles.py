"""A profile may be changed for an ablation, and to nothing that cannot be meant."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from trainer.encoder.profiles import PROFILES, changed  # noqa: E402


def test_values_are_changed_wherever_they_lie() -> None:
    """What is not named stays."""
    field = PROFILES["field"]
    found = changed(field, ["recipe.augmentation.mix_share=0", "batch_size=8"])
    assert found.recipe.augmentation.mix_share == 0  # type: ignore[union-attr]
    assert (found.batch_size, found.epochs) == (8, field.epochs)
    without = changed(field, ["recipe.again_share=0", "recipe.n_remembered=0"])
    assert without.recipe.n_remembered == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("profile", "change", "said"),
    [
        ("paper", "batch_size=0", "batch_size is 0; must be above 0"),
        ("paper", "epochs=-1", "epochs is -1; must be above 0"),
        ("paper", "recipe.negative_share=1", "negative_share is 1.0; 0 to less than 1"),
        ("field", "recipe.n_per_epoch=0", "n_per_epoch is 0; must be above 0"),
        ("field", "recipe.n_remembered=0", "n_remembered is 0; must be above 0"),
        ("field", "learning_rate=nan", "learning_rate=nan: must be a number like 0.002"),
        ("field", "learning_rate=inf", "learning_rate=inf: must be a number like 0.002"),
        ("field", "batch_size=8.5", "batch_size=8.5: must be a number like 64"),
    ],
)
def test_what_nothing_is_learnt_with_is_refused(profile: str, change: str, said: str) -> None:
    """Not after all has been decoded, by a division."""
    with pytest.raises(ValueError, match=said):
        changed(PROFILES[profile], [change])
