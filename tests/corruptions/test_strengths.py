"""The tables of strengths, entered a second time from the published generators in a layout of their own."""

from collections.abc import Mapping

import pytest

from robusteval.corruptions import (
    CBAR,
    CIFAR,
    CORRUPTIONS,
    HELD_OUT,
    IMAGENET,
    NAMES,
    TABLES,
    parts,
    sources,
    strength,
    table_for,
)
from robusteval.errors import UserError

PUBLISHED = """
gaussian_noise     .04 / .06 / .08 / .09 / .10
shot_noise         500 / 250 / 100 / 75 / 50
impulse_noise      .01 / .02 / .03 / .05 / .07
speckle_noise      .06 / .1 / .12 / .16 / .2
gaussian_blur      .4 / .6 / .7 / .8 / 1
glass_blur         .05 1 1 / .25 1 1 / .4 1 1 / .25 1 2 / .4 1 2
defocus_blur       .3 .4 / .4 .5 / .5 .6 / 1 .2 / 1.5 .1
motion_blur        6 1 / 6 1.5 / 6 2 / 8 2 / 9 2.5
zoom_blur          1.06 .01 / 1.11 .01 / 1.16 .01 / 1.21 .01 / 1.26 .01
fog                .2 3 / .5 3 / .75 2.5 / 1 2 / 1.5 1.75
frost              1 .2 / 1 .3 / .9 .4 / .85 .4 / .75 .45
snow               .1 .2 1 .6 8 3 .95 / .1 .2 1 .5 10 4 .9 / .15 .3 1.75 .55 10 4 .9 /
                   .25 .3 2.25 .6 12 6 .85 / .3 .3 1.25 .65 14 12 .8
spatter            .62 .1 .7 .7 .5 0 / .65 .1 .8 .7 .5 0 / .65 .3 1 .69 .5 0 / .65 .1 .7 .69 .6 1 / .65 .1 .5 .68 .6 1
contrast           .75 / .5 / .4 / .3 / .15
brightness         .05 / .1 / .15 / .2 / .3
saturate           .3 0 / .1 0 / 1.5 0 / 2 .1 / 2.5 .2
jpeg_compression   80 / 65 / 58 / 50 / 40
pixelate           .95 / .9 / .85 / .75 / .65
elastic_transform  0 0 .08 / .05 .2 .07 / .08 .06 .06 / .1 .04 .05 / .1 .03 .03
"""


# In the elastic transform, shares of 244 pixels, and in zoom_blur the end and the step of the factors.
IMAGENET_PUBLISHED = """
gaussian_noise     .08 / .12 / .18 / .26 / .38
shot_noise         60 / 25 / 12 / 5 / 3
impulse_noise      .03 / .06 / .09 / .17 / .27
speckle_noise      .15 / .2 / .35 / .45 / .6
gaussian_blur      1 / 2 / 3 / 4 / 6
glass_blur         .7 1 2 / .9 2 1 / 1 2 3 / 1.1 3 2 / 1.5 4 2
defocus_blur       3 .1 / 4 .5 / 6 .5 / 8 .5 / 10 .5
motion_blur        10 3 / 15 5 / 15 8 / 15 12 / 20 15
zoom_blur          1.11 .01 / 1.16 .01 / 1.21 .02 / 1.26 .02 / 1.31 .03
fog                1.5 2 / 2 2 / 2.5 1.7 / 2.5 1.5 / 3 1.4
frost              1 .4 / .8 .6 / .7 .7 / .65 .7 / .6 .75
snow               .1 .3 3 .5 10 4 .8 / .2 .3 2 .5 12 4 .7 / .55 .3 4 .9 12 8 .7 /
                   .55 .3 4.5 .85 12 8 .65 / .55 .3 2.5 .85 12 12 .55
spatter            .65 .3 4 .69 .6 0 / .65 .3 3 .68 .6 0 / .65 .3 2 .68 .5 0 / .65 .3 1 .65 1.5 1 / .67 .4 1 .65 1.5 1
contrast           .4 / .3 / .2 / .1 / .05
brightness         .1 / .2 / .3 / .4 / .5
saturate           .3 0 / .1 0 / 2 0 / 5 .1 / 20 .2
jpeg_compression   25 / 18 / 15 / 10 / 7
pixelate           .6 / .5 / .4 / .3 / .25
elastic_transform  2 .7 .1 / 2 .08 .2 / .05 .01 .02 / .07 .01 .02 / .12 .01 .02
"""


def entered(text: str) -> dict[str, tuple[tuple[float, ...], ...]]:
    rows: dict[str, str] = {}
    for line in text.strip().splitlines():
        name, *numbers = line.split()
        if line.startswith(" "):
            rows[next(reversed(rows))] += " " + line
        else:
            rows[name] = " ".join(numbers)
    return {name: tuple(tuple(map(float, part.split())) for part in row.split("/")) for name, row in rows.items()}


def test_the_strengths_are_the_published_ones() -> None:
    assert entered(PUBLISHED) == dict(CIFAR)


def test_imagenets_strengths_are_the_published_ones() -> None:
    want = entered(IMAGENET_PUBLISHED)
    for name, row in IMAGENET.items():
        scale = 244 / 224 if name == "elastic_transform" else 1
        for numbers, others in zip(row, want.pop(name), strict=True):
            assert numbers == pytest.approx([other * scale for other in others], rel=1e-15)
    assert not want


@pytest.mark.parametrize("table", [pytest.param(table, id=name) for name, table in TABLES.items()])
def test_a_table_has_five_strengths_of_the_same_length_for_every_corruption(
    table: Mapping[str, tuple[tuple[float, ...], ...]],
) -> None:
    assert {*CORRUPTIONS, *HELD_OUT} <= {*table} <= {*NAMES}
    for name, row in table.items():
        assert [len(numbers) for numbers in row] == [len(TABLES["cifar"][name][0])] * 5


def test_the_tables_are_put_together_without_a_change() -> None:
    assert (*CORRUPTIONS, *HELD_OUT, *CBAR) == tuple(sorted(NAMES, key=(*CORRUPTIONS, *HELD_OUT, *CBAR).index))
    for name, table in (("cifar", CIFAR), ("imagenet", IMAGENET)):
        assert {*table} == {*CORRUPTIONS, *HELD_OUT}
        assert all(TABLES[name][corruption] is row for corruption, row in table.items())


def test_strengths_say_where_they_come_from() -> None:
    assert [sources("imagenet", name) for name in ("fog", "fog+snow", "sparkles", "sparkles+fog", "fog+sparkles")] == [
        "imagenet",
        "imagenet",
        "imagenet-bar",
        "imagenet+imagenet-bar",
        "imagenet+imagenet-bar",
    ]


def test_whole_severities_are_the_table_and_others_lie_on_the_line_between() -> None:
    for name, table in TABLES.items():
        for corruption, row in table.items():
            for severity in range(1, 6):
                assert strength(name, corruption, severity) is row[severity - 1]
                assert strength(name, corruption, float(severity)) is row[severity - 1]
            for severity in range(1, 5):
                middle = strength(name, corruption, severity + 0.25)
                for got, low, high in zip(middle, row[severity - 1], row[severity], strict=True):
                    assert got == pytest.approx(0.75 * low + 0.25 * high, abs=0.5 if got == int(got) else 1e-12)
    assert strength("imagenet", "gaussian_noise", 4.5) == pytest.approx((0.32,))


def test_pixels_passes_kinds_and_qualities_stay_whole() -> None:
    assert strength("imagenet", "glass_blur", 2.4) == pytest.approx((0.94, 2, 2))
    assert strength("imagenet", "glass_blur", 3.5) == pytest.approx((1.05, 3, 3))
    assert strength("cifar", "jpeg_compression", 1.5) == (73,)
    assert [strength("cifar", "spatter", s)[5] for s in (3, 3.49, 3.5, 4)] == [0, 0, 1, 1]


def test_auto_is_cifars_table_up_to_its_size() -> None:
    assert [table_for("auto", *size) for size in ((16, 16), (32, 32), (33, 32), (16, 64), (224, 224))] == [
        "cifar",
        "cifar",
        "imagenet",
        "imagenet",
        "imagenet",
    ]
    assert table_for("imagenet", 32, 32) == "imagenet"
    with pytest.raises(UserError, match="unknown table 'cifar10'; did you mean 'cifar'"):
        table_for("cifar10", 32, 32)


def test_a_compound_has_known_and_distinct_parts() -> None:
    assert parts("snow") == ("snow",)
    assert parts("fog+snow+contrast") == ("fog", "snow", "contrast")
    with pytest.raises(UserError, match="unknown corruption 'fog '"):
        parts("fog +snow")
    with pytest.raises(UserError, match="twice"):
        parts("fog+fog")
