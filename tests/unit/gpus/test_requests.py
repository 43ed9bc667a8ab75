"""Device requests for granted devices."""

import pytest

from orchestrator.gpus.claims import device_request

A, MIG = "GPU-aaaa", "MIG-bbbb"


@pytest.mark.parametrize(
    ("drivers", "forced", "driver"),
    [
        (("nvidia",), None, "nvidia"),
        (("nvidia", "cdi"), None, "nvidia"),
        (("cdi",), None, "cdi"),
        ((), None, "nvidia"),
        (("nvidia", "cdi"), "cdi", "cdi"),
        (("cdi",), "nvidia", "nvidia"),
    ],
)
def test_nvidia_goes_before_cdi_unless_the_operator_forces_one(drivers, forced, driver):
    assert device_request([A], gpu_drivers=drivers, forced=forced).driver == driver


def test_nvidia_takes_uuids_as_they_are():
    assert device_request([A, MIG], gpu_drivers=("nvidia",)).device_ids == (A, MIG)


def test_cdi_takes_them_as_device_names():
    fields = device_request([A, MIG], gpu_drivers=("cdi",))
    assert fields.device_ids == ("nvidia.com/gpu=GPU-aaaa", "nvidia.com/gpu=MIG-bbbb")


def test_the_video_engine_is_requested_only_where_demanded():
    assert device_request([A], gpu_drivers=()).capabilities == ("gpu", "compute", "utility")
    assert device_request([A], gpu_drivers=(), video=True).capabilities == ("gpu", "compute", "utility", "video")


def test_a_request_for_no_device_is_refused_because_it_would_mean_all():
    with pytest.raises(ValueError, match="at least one"):
        device_request([], gpu_drivers=("nvidia",))
