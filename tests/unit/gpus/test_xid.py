"""The driver's error numbers, from the kernel's log."""

from orchestrator.gpus.evidence import parse_xids
from orchestrator.gpus.inventory import xid_key


def test_the_last_xid_of_each_gpu_counts():
    log = [
        "6,1,100,-;NVRM: Xid (PCI:0000:65:00): 13, pid=1234, name=python, Graphics Exception",
        "4,2,200,-;nvidia: something else",
        "3,3,300,-;NVRM: Xid (PCI:0000:65:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        "3,4,400,-;NVRM: Xid (PCI:0001:3B:00): 48, DBE",
    ]
    assert parse_xids(log) == {"0000:65:00": 79, "0001:3b:00": 48}


def test_an_address_as_nvml_writes_it_matches_the_one_in_the_log():
    assert xid_key("00000000:65:00.0") == "0000:65:00"
    assert xid_key("00000001:3B:00.0") == "0001:3b:00"
