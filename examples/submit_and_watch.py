"""Give a running factory one more job, watch it to its end, and read what it cost.

With GIGAFACTORY_URL and GIGAFACTORY_KEY set, or a factory that runs from this home:
`gigafactory up laptop`, in another terminal.
"""

from gigafactory.client import Client
from gigafactory.faults import Refused

try:
    factory = Client()
except Refused as refused:
    print(refused.faults[0].remedy)
else:
    with factory:
        trained = next(job for job in factory.jobs() if job["kind"] == "pretrain")
        name = f"judge-{trained['name']}-{sum(1 for _ in factory.jobs())}"
        work = {"kind": "evaluate", "of": trained["name"], "suite": "bits_per_byte"}
        quote = factory.submit(name, {"tenant": trained["tenant"], **work})["quote"]
        print(f"{name}: quoted {quote['duration_s']['value']:.0f} s")
        for job in factory.watch(name):
            print(f"{name}: {job['status']} {job['why']}")
        print(f"{job['used']['chip_s']:.1f} chip-seconds, {job['used']['money_micro'] / 1e6:.6f}")
