"""The factory on the wall clock: Ray, recovery, calibration, API, gateway, metering."""
