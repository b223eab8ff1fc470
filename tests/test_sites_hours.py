"""The hours of a site: clocks, grid, weather, and all of them as one year."""

import dataclasses
import math

import numpy as np
import psychrolib
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gigafactory.stack import facts
from gigafactory.stack.sites import air, grid, hours, places
from gigafactory.stack.sites.weather import climate_of, climates, weather
from gigafactory.stack.sites.year import Year, year

psychrolib.SetUnitSystem(psychrolib.SI)
CATALOGUE = places.sites()
WEATHER = weather(CATALOGUE)
GRID_ROWS = facts.rows("grid")


def at(name):
    return next(row for row, site in enumerate(CATALOGUE) if site.id == name)


def hour_of(month, day, hour):
    """Hour of the year, UTC."""
    return int(hours.MONTH_STARTS[month - 1]) + (day - 1) * 24 + hour


# Clocks


@pytest.mark.parametrize(
    ("zone", "month", "day", "utc", "local"),
    [
        ("Europe/Rome", 7, 15, 10, 12),  # Milan in July is UTC+2, in January UTC+1.
        ("Europe/Rome", 1, 15, 10, 11),
        ("Asia/Shanghai", 7, 15, 10, 18),
        ("Asia/Kolkata", 7, 15, 10, 15),  # 15:30
        ("America/New_York", 3, 9, 6, 1),  # The clock goes from 1:59 to 3:00 at 7:00 UTC.
        ("America/New_York", 3, 9, 7, 3),
        ("America/Sao_Paulo", 1, 15, 10, 7),
        ("Europe/Rome", 10, 26, 0, 2),  # The hour from 2 to 3 comes twice.
        ("Europe/Rome", 10, 26, 1, 2),
    ],
)
def test_a_known_instant_has_the_hour_that_the_clocks_there_show(zone, month, day, utc, local):
    hour, _ = hours.local_hours(zone)
    assert hour[hour_of(month, day, utc)] == local


def test_the_month_changes_at_midnight_on_the_clocks_there():
    _, month = hours.local_hours("Asia/Tokyo")
    assert month[hour_of(3, 31, 14)] == 2
    assert month[hour_of(3, 31, 15)] == 3
    assert month[hour_of(12, 31, 15)] == 0  # New Year's Day is at the end of the row.


def test_the_hours_of_the_months_add_up_to_a_common_year():
    assert hours.MONTH_STARTS[-1] + 31 * 24 == hours.HOURS
    assert np.allclose(hours.month_means(np.full(hours.HOURS, 7.0)), 7)


# Air


@settings(deadline=None)
@given(
    dry_bulb=st.floats(-45, 55),
    humidity=st.floats(0.01, 1),
    elevation=st.floats(-100, 4500),
)
def test_wet_bulb_is_psychrolib_s(dry_bulb, humidity, elevation):
    pressure = psychrolib.GetStandardAtmPressure(elevation)
    assert air.standard_pressure_pa(elevation) == pytest.approx(pressure)
    vapour = psychrolib.GetVapPresFromRelHum(dry_bulb, humidity)
    # psychrolib goes no lower than this, and the wet bulb does not notice.
    assume(psychrolib.GetHumRatioFromVapPres(vapour, pressure) > psychrolib.MIN_HUM_RATIO)
    theirs = psychrolib.GetTWetBulbFromRelHum(dry_bulb, humidity, pressure)
    ours = air.wet_bulb_c(np.array([dry_bulb]), np.array([humidity]), pressure)[0]
    if theirs < 0 <= ours:  # Their equations have a solution over ice and one over water.
        ratio = psychrolib.GetHumRatioFromVapPres(vapour, pressure)
        balanced = psychrolib.GetHumRatioFromTWetBulb(dry_bulb, min(ours, dry_bulb), pressure)
        assert balanced == pytest.approx(ratio, abs=2e-6)
        assert ours - theirs < 1
    else:
        assert ours == pytest.approx(theirs, abs=0.01)


@settings(deadline=None)
@given(st.floats(-60, 60))
def test_saturation_pressure_is_psychrolib_s(dry_bulb):
    ours = air.saturation_pa(np.array([dry_bulb]))[0]
    assert ours == pytest.approx(psychrolib.GetSatVapPres(dry_bulb), rel=1e-4)


@settings(deadline=None)
@given(st.floats(-30, 50), st.floats(0.02, 1), st.floats(60_000, 104_000))
def test_heat_of_moist_air_is_psychrolib_s(dry_bulb, humidity, pressure):
    vapour = psychrolib.GetVapPresFromRelHum(dry_bulb, humidity)
    assume(vapour < pressure / 2)
    ratio = psychrolib.GetHumRatioFromVapPres(vapour, pressure)
    theirs = psychrolib.GetMoistAirEnthalpy(dry_bulb, ratio)
    ours = air.heat_j_per_kg(np.array([dry_bulb]), np.array([vapour]), pressure)[0]
    assert ours == pytest.approx(theirs, abs=1)


# Weather


def test_every_month_has_the_mean_of_its_normal():
    for row, site in enumerate(CATALOGUE):
        climate = climate_of(site)
        dry_bulb = hours.month_means(WEATHER.dry_bulb_c[row].astype(float))
        assert dry_bulb == pytest.approx(climate.dry_bulb_c, abs=1e-3), site.id
        humidity = hours.month_means(WEATHER.relative_humidity[row].astype(float))
        assert humidity == pytest.approx(climate.relative_humidity, abs=0.03), site.id


def test_design_temperatures_are_passed_in_about_35_hours():
    passed = [np.quantile(of, 0.996, axis=1) for of in (WEATHER.dry_bulb_c, WEATHER.wet_bulb_c)]
    of = [climate_of(site) for site in CATALOGUE]
    dry = passed[0] - [climate.design_dry_bulb_c for climate in of]
    wet = passed[1] - [climate.design_wet_bulb_c for climate in of]
    assert np.abs(dry).max() < 1.1
    assert np.abs(wet).max() < 3.5  # Phoenix, whose driest days the model makes too humid.
    assert np.abs(wet).mean() < 0.3


def test_monthly_wet_bulb_is_near_the_published_one_of_the_monthly_means():
    for row, site in enumerate(CATALOGUE):
        climate = climate_of(site)
        wet_bulb = hours.month_means(WEATHER.wet_bulb_c[row].astype(float))
        assert wet_bulb == pytest.approx(climate.wet_bulb_published_c, abs=1.0), site.id


def test_the_spread_of_hours_is_near_that_of_measured_ones():
    off = []
    for row in facts.rows("climate_hours"):
        site = at(row["place"])
        modelled = WEATHER.dry_bulb_c if row["quantity"] == "dry_bulb" else WEATHER.wet_bulb_c
        for name, share in (("p05", 0.05), ("p50", 0.5), ("p95", 0.95), ("p996", 0.996)):
            off.append(np.quantile(modelled[site], share) - float(row[name]))
    assert len(off) == 80
    assert np.abs(off).mean() < 0.8
    assert np.abs(off).max() < 4


@pytest.mark.parametrize(
    ("site", "warm", "cold"), [("milan", 7, 1), ("sao-paulo", 1, 7), ("lulea", 7, 1)]
)
def test_summer_is_in_the_right_half_of_the_year(site, warm, cold):
    means = hours.month_means(WEATHER.dry_bulb_c[at(site)].astype(float))
    assert means[warm - 1] > means[cold - 1] + 3


@pytest.mark.parametrize("site", ["milan", "phoenix", "beijing", "singapore", "sao-paulo"])
def test_afternoons_are_warm_and_dry(site):
    hour, _ = hours.local_hours(CATALOGUE[at(site)].timezone)
    by_hour = [
        [of[at(site)][hour == h].mean() for h in range(24)]
        for of in (WEATHER.dry_bulb_c, WEATHER.relative_humidity)
    ]
    assert 12 <= np.argmax(by_hour[0]) <= 16
    assert 3 <= np.argmin(by_hour[0]) <= 7
    assert 12 <= np.argmin(by_hour[1]) <= 16


def test_air_holds_no_more_than_it_can():
    assert (WEATHER.wet_bulb_c <= WEATHER.dry_bulb_c).all()
    assert (WEATHER.relative_humidity > 0).all()
    assert (WEATHER.relative_humidity <= 1).all()
    assert WEATHER.pressure_pa[at("xining")].max() < 80_000 < WEATHER.pressure_pa.max() < 101_326


def test_a_seed_gives_its_year_and_another_seed_another():
    milan = [CATALOGUE[at("milan")]]
    first, again, other = (weather(milan, seed).dry_bulb_c[0] for seed in (7, 7, 8))
    assert (first == again).all()
    assert np.abs(first - other).max() > 2
    assert (weather(milan).dry_bulb_c[0] == WEATHER.dry_bulb_c[at("milan")]).all()


def test_a_place_without_normals_has_those_of_the_nearest():
    near_milan = dataclasses.replace(CATALOGUE[at("milan")], climate="", latitude=45.6)
    assert climate_of(near_milan).place == "milan"


def test_a_warm_day_is_followed_by_a_warm_day_more_often_than_not():
    row = at("frankfurt")
    days = WEATHER.dry_bulb_c[row].reshape(365, 24).mean(axis=1)
    july = days[182:212] - days[182:212].mean()
    assert (july[1:] * july[:-1]).mean() > 0.2 * july.var()


# Grid


def test_the_annual_mean_is_the_site_s_own_figure():
    carbon, price = grid.carbon_g_per_kwh(CATALOGUE), grid.price_usd_per_kwh(CATALOGUE)
    for row, site in enumerate(CATALOGUE):
        for hourly, figure in ((carbon, "carbon"), (price, "electricity_price")):
            own = site.figures[figure].value
            assert hourly[row].astype(float).mean() == pytest.approx(own, rel=1e-6), site.id
    assert (carbon > 0).all()
    assert (price >= 0).all()


def test_the_shape_is_the_zone_s_by_local_hour_and_season():
    site = CATALOGUE[at("frankfurt")]
    hourly = grid.carbon_g_per_kwh([site])[0]
    hour, month = hours.local_hours(site.timezone)
    zone = {
        r["season"]: r for r in GRID_ROWS if (r["zone"], r["metric"]) == ("DE-LU", "carbon_lca")
    }
    for season, months in (("JJA", (5, 6, 7)), ("DJF", (11, 0, 1))):
        noon, evening = (hourly[(hour == h) & np.isin(month, months)].mean() for h in (12, 20))
        assert noon / evening == pytest.approx(
            float(zone[season]["h12"]) / float(zone[season]["h20"]), rel=1e-4
        )


def test_a_delivered_price_moves_by_the_wholesale_hours_alone():
    site = CATALOGUE[at("frankfurt")]
    moved = grid.price_usd_per_kwh([site])[0] - site.figures["electricity_price"].value
    dearer = with_price(site, 0.6)
    moved_dearer = grid.price_usd_per_kwh([dearer])[0] - 0.6
    assert np.abs(moved - moved_dearer).max() < 1e-6
    assert np.ptp(moved) > 0.05


@settings(deadline=None)
@given(price=st.floats(0.001, 0.5))
@pytest.mark.parametrize("zone", ["AU-VIC", "SG", "US-TEX-ERCO", "SE-SE1", "CN-GD"])
def test_no_hour_is_cheaper_than_free(zone, price):
    """Victoria has hours below zero in the mean of a season."""
    site = dataclasses.replace(with_price(CATALOGUE[at("milan")], price), price_zone=zone)
    hourly = grid.price_usd_per_kwh([site])[0].astype(float)
    assert hourly.min() >= -1e-9
    assert hourly.mean() == pytest.approx(price, rel=1e-5)
    assert np.ptp(hourly) > 0.1 * min(price, 0.05)


def test_a_tariff_of_guangdong_is_guangdong_s_and_a_marked_stand_in_elsewhere():
    shenzhen, beijing = (
        grid.shape(CATALOGUE[at(name)], "price") for name in ("shenzhen", "beijing")
    )
    assert (shenzhen.zone, shenzhen.basis, shenzhen.proxy) == ("CN-GD", "published", "")
    assert (beijing.zone, beijing.basis) == ("CN-GD", "assumed")
    assert "Guangdong" in beijing.proxy
    hourly = grid.price_usd_per_kwh([CATALOGUE[at("shenzhen")]])[0]
    hour, month = hours.local_hours("Asia/Shanghai")
    peak, valley = (hourly[(hour == h) & (month == 7)].mean() for h in (11, 3))
    assert peak / valley == pytest.approx(1.7 * 1.25 / 0.38, rel=1e-4)
    assert hourly[(hour == 11) & (month == 5)].mean() == pytest.approx(peak / 1.25, rel=1e-4)


def test_prices_that_are_not_trusted_shape_nothing():
    sao_paulo = dataclasses.replace(CATALOGUE[at("sao-paulo")], price_zone="BR-SP")
    assert grid.shape(sao_paulo, "price").zone == ""
    assert grid.shape(sao_paulo, "carbon").zone == "BR-SP"
    assert np.ptp(grid.price_usd_per_kwh([sao_paulo])) == 0


def test_every_curve_says_where_it_comes_from_and_every_stand_in_why():
    for site in [*CATALOGUE, *places.sites("country")]:
        for figure, own in (("carbon", site.grid_zone), ("price", site.price_zone)):
            of = grid.shape(site, figure)
            assert of.basis in facts.BASES
            assert of.source
            assert of.as_of
            assert (of.proxy == "") == (of.zone != "" and of.zone == own), (site.id, figure)
            assert of.basis == "assumed" or not of.proxy


def test_zones_that_the_source_itself_estimated_are_marked():
    marked = {
        r["zone"] for r in GRID_ROWS if (r["metric"], r["basis"]) == ("carbon_lca", "estimate")
    }
    assert marked == {"HK", "IS", "IN-WE", "JP-TK"}


# Files


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("grid", [f"h{hour:02}" for hour in range(24)]),
        ("climate", [f"m{month:02}" for month in range(1, 13)]),
        ("climate_hours", ["p01", "p05", "p25", "p50", "p75", "p95", "p99", "p996"]),
    ],
)
def test_every_curve_is_whole_and_sourced(table, columns):
    for row in facts.rows(table):
        assert all(math.isfinite(float(row[column])) for column in columns), row
        assert row["basis"] in facts.BASES
        assert row["source"]
        assert row["as_of"]


def test_every_design_figure_is_known_or_says_that_it_is_not():
    for table in ("climate_design", "climate_model", "grid_proxies"):
        for row in facts.rows(table):
            assert row["basis"] in facts.BASES
            assert (row["value"] == "") == (row["basis"] == "unknown"), row
            assert row["source"] or row["basis"] == "unknown", row
    zones = {row["zone"] for row in GRID_ROWS} | {grid.FLAT}
    assert {row["value"] for row in facts.rows("grid_proxies")} <= zones


def test_every_place_of_the_catalogue_has_normals_of_its_own():
    assert {site.climate for site in CATALOGUE} == set(climates())


# The year


def test_a_year_has_a_row_for_each_site_asked_for_in_that_order():
    asked = [CATALOGUE[at(name)] for name in ("milan", "singapore", "milan", "oslo")]
    whole = year(asked, "direct-to-chip")
    alone = year(asked[1:2], "direct-to-chip")
    for field in dataclasses.fields(Year):
        array = getattr(whole, field.name)
        assert array.shape == (4, hours.HOURS)
        assert array.dtype == np.float32
        assert (array[0] == array[2]).all()
        assert (array[1] == getattr(alone, field.name)[0]).all()
    assert (whole.pue >= 1).all()
    assert (whole.wue_l_per_kwh >= 0).all()


def test_the_data_centers_of_the_regions_make_one_array_of_91_rows():
    whole = year(places.data_centers())
    assert whole.pue.shape == (91, hours.HOURS)
    assert np.isfinite(whole.pue).all()
    assert len({row.tobytes() for row in whole.dry_bulb_c}) == len(places.sites("alibaba-region"))


def with_price(site, price):
    figure = dataclasses.replace(site.figures["electricity_price"], value=price)
    return dataclasses.replace(site, figures={**site.figures, "electricity_price": figure})
