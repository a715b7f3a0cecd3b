import hashlib
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from robusteval.corruptions import corrupt, textures
from robusteval.errors import UserError


def installed() -> Path:
    spec = find_spec(textures.MODULE)
    assert spec is not None
    return Path(spec.submodule_search_locations[0]) / "frost"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the photographs in a package of the same name that is found first."""
    folder = tmp_path / textures.MODULE / "frost"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('never to be imported')\n")
    for name in textures.DIGESTS:
        shutil.copy(installed() / name, folder)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, textures.MODULE, raising=False)  # else it is found where it was
    monkeypatch.setattr(textures, "frost", textures.frost.__wrapped__)
    return folder


def test_the_photographs_are_a_bilinear_fifth(elsewhere: Path) -> None:
    for texture, name in zip(textures.frost(), textures.DIGESTS, strict=True):
        large = np.asarray(Image.open(elsewhere / name).convert("RGB")).astype(float)
        height, width = texture.shape[1:]
        assert (height, width) == (round(large.shape[0] / 5), round(large.shape[1] / 5))
        # Pixel centres: (i + 1/2) * 5 - 1/2.
        places = np.stack(np.meshgrid(np.arange(height) * 5 + 2.0, np.arange(width) * 5 + 2.0, indexing="ij"))
        for channel in range(3):
            want = ndimage.map_coordinates(large[..., channel], places, order=1)
            np.testing.assert_allclose(texture[channel], want, atol=1e-9)


def test_a_changed_photograph_is_refused(elsewhere: Path) -> None:
    data = bytearray((elsewhere / "frost4.jpg").read_bytes())
    data[1000] ^= 1
    assert hashlib.sha256(data).hexdigest() != textures.DIGESTS["frost4.jpg"]
    (elsewhere / "frost4.jpg").write_bytes(data)
    with pytest.raises(UserError, match=r"frost4\.jpg is not the published photograph"):
        textures.frost()


def test_a_missing_photograph_or_package_is_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "frost2.png").unlink()
    with pytest.raises(UserError, match=r"cannot read .*frost2\.png .*imagecorruptions-imaug"):
        textures.frost()
    monkeypatch.setattr(textures, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="'imagecorruptions-imaug', which is not installed"):
        textures.frost()


def test_all_five_photographs_are_drawn() -> None:
    black = torch.zeros(60, 3, 32, 32, dtype=torch.uint8)
    frosted = corrupt(black, "frost", 5, seed=0, index=torch.arange(60))
    # On black the result is the photograph itself at 45 %: its brightest level tells the photographs apart.
    assert len(frosted.flatten(1).float().mean(1).unique()) > 50
