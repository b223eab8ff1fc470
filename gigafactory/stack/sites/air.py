"""Moist air: saturation, pressure at a height, wet bulb. Degrees Celsius, Pa, 0-1.

The equations of ASHRAE Handbook Fundamentals 2017, chapter 1, as psychrolib 2.5 writes them; the
tests hold each against psychrolib. They are written anew because psychrolib takes one hour at a
time, and because importing it imports numba where that is installed (a second of CPU).
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

WATER_OVER_AIR = 0.621945
"""Molar mass of water over that of dry air."""
HEAT_OF_AIR = 1.006
"""kJ/(kg K)"""
HEAT_OF_VAPOUR = 1.86
# Latent heat at 0 degC (kJ/kg), heat of liquid water or ice, and what is left of the vapour's.
WATER = (2501.0, 2.326, 4.186)
ICE = (2830.0, 0.24, 2.1)
TRIPLE_POINT_C = 0.01
STEP_C = 0.05
COLDEST_C, HOTTEST_C = -80.0, 80.0


def standard_pressure_pa(elevation_m: float) -> float:
    """Pressure of the standard atmosphere at this height."""
    return float(101_325 * (1 - 2.25577e-5 * elevation_m) ** 5.2559)


def saturation_pa(dry_bulb_c: Any) -> Any:
    """Pressure of saturated vapour, over ice below 0.01 degC (within 2e-6 of the equation)."""
    grid_c, saturated_pa = _saturation()
    return np.interp(dry_bulb_c, grid_c, saturated_pa)


def heat_j_per_kg(dry_bulb_c: Any, vapour_pa: Any, pressure_pa: float) -> Any:
    """Enthalpy of moist air per kg of dry air, from dry air and water at 0 degC."""
    ratio = WATER_OVER_AIR * vapour_pa / (pressure_pa - vapour_pa)
    kj_per_kg = HEAT_OF_AIR * dry_bulb_c + ratio * (WATER[0] + HEAT_OF_VAPOUR * dry_bulb_c)
    return 1e3 * kj_per_kg


def wet_bulb_c(dry_bulb_c: Floats, relative_humidity: Floats, pressure_pa: float) -> Floats:
    """Wet bulb of air at one pressure (one place).

    The balance of the wet bulb x at dry bulb t and humidity ratio w can be written

        (L - c x) ws(x) + 1.006 x  =  1.006 t + w (L + 1.86 t) - w d x

    with a left side that rises with x and depends on nothing else, so it is tabulated once for
    a place and read backwards; the last term is small and settles in three rounds.
    Just above 0 degC the equations have two solutions, one over water and one over ice, up to
    0.9 K colder, and which one psychrolib's bisection ends in is chance. Here it is water.
    """
    vapour_pa = relative_humidity * saturation_pa(dry_bulb_c)
    ratio = WATER_OVER_AIR * vapour_pa / (pressure_pa - vapour_pa)
    wet = _balanced(dry_bulb_c, ratio, pressure_pa, WATER)
    frozen = wet < 0
    if frozen.any():
        wet[frozen] = _balanced(dry_bulb_c[frozen], ratio[frozen], pressure_pa, ICE)
    return np.minimum(wet, dry_bulb_c)


def _balanced(dry_bulb_c: Floats, ratio: Floats, pressure_pa: float, of: tuple) -> Floats:
    latent, heat, left = of
    grid_c, saturated_pa = _saturation()
    # Above the boiling point there is no wet bulb, and none of our places boils.
    saturated = WATER_OVER_AIR * saturated_pa / (pressure_pa - saturated_pa)
    rising = (latent - heat * grid_c) * saturated + HEAT_OF_AIR * grid_c
    known = HEAT_OF_AIR * dry_bulb_c + ratio * (latent + HEAT_OF_VAPOUR * dry_bulb_c)
    drag = left * ratio
    wet = np.interp(known - drag * dry_bulb_c, rising, grid_c)
    for _ in range(2):
        wet = np.interp(known - drag * wet, rising, grid_c)
    return wet


@cache
def _saturation() -> tuple[Floats, Floats]:
    """Temperatures in small steps, and the saturation pressure at each (Hyland and Wexler)."""
    grid_c = np.arange(COLDEST_C, HOTTEST_C + STEP_C / 2, STEP_C)
    kelvin = grid_c + 273.15
    ice = np.polyval((-9.484024e-13, 2.0747825e-9, 6.2215701e-7, -9.677843e-3, 6.3925247), kelvin)
    ice += -5.6745359e3 / kelvin + 4.1635019 * np.log(kelvin)
    water = np.polyval((-1.4452093e-8, 4.1764768e-5, -4.8640239e-2, 1.3914993), kelvin)
    water += -5.8002206e3 / kelvin + 6.5459673 * np.log(kelvin)
    return grid_c, np.exp(np.where(grid_c <= TRIPLE_POINT_C, ice, water))
