"""Traces: every published form is read, what is unsound is said by line, copies are held to their
published summary, and made-up ones have the figures of the cluster that they are made after."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gigafactory import tracing
from gigafactory.faults import Refused
from gigafactory.twin import traces
from gigafactory.twin.traces import VcPool, against, like, load, pools, summary, verdict

PLAIN = "job_id,submit_s,duration_s,num_gpus,vc\n"
SOUND = PLAIN + "a,0,10,1,x\nb,5,20,8,y\nc,9,30,2,x\n"


def write(folder, text, name="t.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def gigafactory(*words):
    app = typer.Typer()
    tracing.mount(app)
    return CliRunner().invoke(app, [str(word) for word in words])


# Forms


def test_a_plain_trace_is_read_from_csv_gzip_and_parquet_alike(tmp_path):
    text = write(tmp_path, SOUND)
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(SOUND.encode()))
    table = pa.table(
        {
            "job_id": ["a", "b", "c"],
            "submit_s": [0, 5, 9],
            "duration_s": pa.array([10, 20, 30], pa.float32()),
            "num_gpus": pa.array([1, 8, 2], pa.int16()),
            "vc": ["x", "y", "x"],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    for path in (text, packed, tmp_path / "t.parquet"):
        trace = load(path)
        assert trace.form == "plain"
        assert trace.job_id.tolist() == ["a", "b", "c"]
        assert trace.submit_s.tolist() == [0, 5, 9]
        assert trace.duration_s.tolist() == [10, 20, 30]
        assert trace.num_gpus.tolist() == [1, 8, 2]
        assert [trace.vcs[index] for index in trace.vc] == ["x", "y", "x"]
        assert np.isnan(trace.queue_s).all()


def test_without_job_id_the_row_number_from_0_is_the_id_whatever_is_left_out(tmp_path):
    path = write(tmp_path, "submit_s,duration_s,num_gpus\n0,1,1\n2,3\n4,-1,1\n5,1,0\n6,1,1\n")
    assert load(path, on_fault="skip").job_id.tolist() == [0, 4]


def test_ids_and_virtual_clusters_that_look_like_numbers_stay_as_they_are(tmp_path):
    path = write(tmp_path, PLAIN + "007,0,1,1,7e1402\n7,1,1,1,11\n")
    trace = load(path)
    assert trace.job_id.tolist() == ["007", "7"]
    assert trace.vcs == ("7e1402", "11")
    assert load(write(tmp_path, PLAIN + "12,0,1,1,x\n7,1,1,1,x\n")).job_id.tolist() == [12, 7]


def test_philly_runs_from_the_first_start_to_the_last_end(tmp_path):
    def attempt(start, end, gpus=8):
        gpus = [f"gpu{number}" for number in range(gpus)]
        return {"start_time": start, "end_time": end, "detail": [{"ip": "m47", "gpus": gpus}]}

    def job(name, status, submitted, attempts):
        return {
            "status": status,
            "vc": "ee9e8c",
            "jobid": name,
            "attempts": attempts,
            "submitted_time": submitted,
            "user": "ce2f4c",
        }

    cpu_only = attempt("2017-10-07 01:20:00", "2017-10-07 01:21:00", gpus=0)
    brief = attempt("2017-10-07 01:11:31", "2017-10-07 01:11:41", gpus=1)
    jobs = [
        job("later", "Killed", "2017-10-07 02:00:00", [attempt("2017-10-07 02:00:00", None)]),
        job("none", "Failed", "2017-10-07 01:00:00", []),
        job(
            "twice",
            "Pass",
            "2017-10-07 01:11:39",
            [
                attempt("2017-10-07 01:12:09", "2017-10-07 01:13:23"),
                attempt("2017-10-07 01:13:30", "2017-10-09 06:53:12"),
            ],
        ),
        job("cpu", "Pass", "2017-10-07 01:20:00", [cpu_only]),
        job("short", "Failed", "2017-10-07 01:11:30", [brief]),
        {"attempts": "all of them"},
    ]
    path = write(tmp_path, json.dumps(jobs), "cluster_job_log")
    trace = load(path, on_fault="skip")
    assert trace.form == "philly"
    assert trace.begins == "2017-10-07 01:11:30"
    assert trace.job_id.tolist() == ["short", "twice"]
    assert trace.submit_s.tolist() == [0, 9]
    assert trace.duration_s.tolist() == [10, 2 * 86400 + 5 * 3600 + 41 * 60 + 3]
    assert trace.queue_s.tolist() == [1, 30]
    assert trace.num_gpus.tolist() == [1, 8]
    assert trace.outcome.tolist() == [3, 1]
    assert trace.noted == {"cpu_only": 1, "unfinished": 2, "sorted": 1}
    assert [(fault.line, fault.what) for fault in trace.faults] == [(6, "no row")]


HELIOS = """\
job_id,user,vc,gpu_num,node_num,state,submit_time,start_time,end_time,duration,queue
11,uX,vcJkd,1,1,COMPLETED,2020-06-09 18:41:01,2020-06-09 18:41:01,2020-06-10 04:55:09,36848,0
12,uV,vchbv,4,1,FAILED,2020-06-09 18:41:27,2020-06-09 18:41:30,2020-06-09 18:45:36,246,3
13,uz,vcpDC,0,1,CANCELLED,2020-06-09 18:41:28,2020-06-09 18:41:28,2020-06-17 14:15:21,675233,0
14,uz,vcJkd,1,1,NODE_FAIL,2020-06-09 18:42:28,2020-06-09 18:42:28,2020-06-09 18:42:29,1,0
"""


def test_helios_counts_from_the_first_submission_and_a_lost_node_as_a_failure(tmp_path):
    trace = load(write(tmp_path, HELIOS))
    assert (trace.form, trace.begins) == ("helios", "2020-06-09 18:41:01")
    assert trace.job_id.tolist() == [11, 12, 14]
    assert trace.submit_s.tolist() == [0, 26, 87]
    assert trace.queue_s.tolist() == [0, 3, 0]
    assert trace.outcome.tolist() == [1, 3, 3]
    assert trace.vcs == ("vcJkd", "vchbv")
    assert trace.cpu_only == 1


def test_acme_is_read_with_its_zones_and_says_where_the_run_time_counts_the_wait(tmp_path):
    path = write(
        tmp_path,
        "job_id,user,node_num,gpu_num,cpu_num,mem_per_pod_GB,shared_mem_per_pod,type,state,"
        "submit_time,start_time,end_time,fail_time,stop_time,duration,queue,gpu_time\n"
        "dlctk,uf794,8,64,960,1000,100.0,Other,FAILED,2023-05-17 11:00:58+00:00,"
        "2023-05-17 11:01:08+00:00,2023-05-17 11:01:16+00:00,2023-05-17 11:01:16+00:00,,"
        "18,10.0,1152.0\n"
        "dlc1t,uf794,1,8,96,1000,100.0,Other,CANCELLED,2023-05-17 19:01:58+08:00,"
        "2023-05-17 11:02:00+00:00,2023-05-17 11:03:00+00:00,,2023-05-17 11:03:00+00:00,"
        "60,2.0,480.0\n",
        "trace_kalos.csv",
    )
    trace = load(path)
    assert trace.form == "acme"
    assert trace.submit_s.tolist() == [0, 60]
    assert trace.duration_s.tolist() == [18, 60]
    assert trace.noted == {"duration_is_not_end_less_start": 1}


def test_pai2020_joins_the_job_table_beside_it_and_rounds_shared_gpus_up(tmp_path):
    tasks = (  # As published: no header.
        "j1,worker,2.0,Terminated,110.0,210.0,600.0,29.3,50.0,MISC\n"
        "j1,ps,1.0,Terminated,110.0,210.0,600.0,29.3,,\n"
        "j2,worker,4.0,Failed,50.0,70.0,600.0,29.3,25.5,T4\n"
        "j3,worker,1.0,Running,90.0,,600.0,29.3,100.0,T4\n"
    )
    path = write(tmp_path, tasks, "pai_task_table.csv")
    alone = load(path)
    assert (alone.form, alone.job_id.tolist()) == ("pai2020", ["j2/worker", "j1/worker"])
    assert alone.submit_s.tolist() == [50, 110]
    assert alone.num_gpus.tolist() == [2, 1]
    assert alone.noted == {"cpu_only": 1, "unfinished": 1, "rounded_up": 1, "sorted": 1}
    jobs = "j1,i1,u,Terminated,100.0,210.0\nj2,i2,u,Failed,45.0,70.0\n"
    write(tmp_path, jobs, "pai_job_table.csv")
    joined = load(path)
    assert joined.submit_s.tolist() == [45, 100]
    assert joined.queue_s.tolist() == [5, 10]
    assert joined.duration_s.tolist() == [20, 100]


def test_the_flattened_pai_list_multiplies_by_its_instances(tmp_path):
    path = write(
        tmp_path,
        "job_id,num_cpu,num_gpu,submit_time,num_inst,duration,wait_time,user\n"
        "5,6.0,0.25,30,3,60,2.0,u\n",
    )
    trace = load(path)
    assert (trace.form, trace.num_gpus.tolist(), trace.queue_s.tolist()) == ("pai2020", [1], [2])


def test_pai2023_pods_run_from_their_schedule_and_pending_ones_not_at_all(tmp_path):
    path = write(
        tmp_path,
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,"
        "deletion_time,scheduled_time\n"
        "openb-pod-0017,88000,327680,8,1000,,Burstable,Succeeded,100,1100,100.0\n"
        "openb-pod-0022,4000,15258,1,220,,BE,Running,150,400,160.0\n"
        "openb-pod-0023,4000,15258,0,0,,BE,Running,150,400,160.0\n"
        "openb-pod-0024,4000,15258,1,1000,V100M16|V100M32,BE,Pending,170,400,\n",
    )
    trace = load(path)
    assert trace.form == "pai2023"
    assert trace.duration_s.tolist() == [1000, 240]
    assert trace.queue_s.tolist() == [0, 10]
    assert trace.num_gpus.tolist() == [8, 1]
    assert trace.noted == {"cpu_only": 1, "unfinished": 1, "rounded_up": 1}


def test_pai2025_instances_from_before_or_after_the_watch_are_counted_not_guessed(tmp_path):
    path = write(
        tmp_path,
        "instance_sn,role,app_name,gpu_request,creation_time,scheduled_time,deletion_time\n"
        "instance_1,HN,app_0,1,,,\n"
        "instance_2,HN,app_0,1,50.0,60.0,90.0\n"
        "instance_3,HN,app_1,1,40.0,40.0,\n"
        "instance_4,CN,app_1,0,40.0,40.0,50.0\n",
    )
    trace = load(path)
    assert (trace.form, trace.vcs, trace.duration_s.tolist()) == ("pai2025", ("app_0",), [30])
    assert trace.noted == {"cpu_only": 1, "unfinished": 2}


def test_pai2026_jobs_take_the_gpus_of_all_their_workers(tmp_path):
    path = write(
        tmp_path,
        "job_name,organization,gpu_model,cpu_request,gpu_request,worker_num,submit_time,duration,job_type\n"
        "239255,13,A10,20,1,1,0,2764799,HP\n"
        "437261,57,A100-SXM4-80GB,15,1,94,9589663,71718,Spot\n",
    )
    trace = load(path)
    assert (trace.form, trace.num_gpus.tolist(), trace.vcs) == (
        "pai2026-spot",
        [1, 94],
        ("13", "57"),
    )


def test_a_list_of_nodes_is_no_trace(tmp_path):
    path = write(tmp_path, "node_name,gpu_model,gpu_capacity_num,cpu_num\n0,A10,1,128\n")
    with pytest.raises(Refused, match="no trace") as refused:
        load(path)
    assert refused.value.faults[0].why == "it lists nodes, not jobs"


def test_sacct_steps_are_dropped_and_typed_gpus_not_counted_twice(tmp_path):
    path = write(
        tmp_path,
        "JobID|Submit|Start|End|State|AllocTRES|ReqTRES|Partition\n"
        "11|2026-01-01T10:00:00|2026-01-01T10:00:30|2026-01-01T11:00:30|COMPLETED"
        "|cpu=8,gres/gpu:a100=4,gres/gpu=4|cpu=8,gres/gpu=4|train\n"
        "11.batch|2026-01-01T10:00:30|2026-01-01T10:00:30|2026-01-01T11:00:30|COMPLETED"
        "|cpu=8,gres/gpu=4||\n"
        "12|2026-01-01T10:01:00|2026-01-01T10:02:00|2026-01-01T10:03:00|CANCELLED by 1000"
        "|cpu=8,gres/gpu:a100=1,gres/gpu:h100=2||dev\n"
        "13|2026-01-01T10:01:00|Unknown|Unknown|PENDING||cpu=8,gres/gpu=4|dev\n"
        "14_2|2026-01-01T10:05:00|2026-01-01T10:05:00|2026-01-01T10:06:00|OUT_OF_MEMORY"
        "|cpu=1|cpu=1|dev\n",
    )
    trace = load(path)
    assert trace.form == "sacct"
    assert trace.job_id.tolist() == [11, 12]
    assert trace.num_gpus.tolist() == [4, 3]
    assert trace.duration_s.tolist() == [3600, 60]
    assert trace.outcome.tolist() == [1, 2]
    assert trace.noted == {"steps": 1, "cpu_only": 1, "unfinished": 1}


def test_swf_counts_processors_and_keeps_line_numbers_past_comments(tmp_path):
    def job(number, submit, wait, run, allocated, requested, status):
        return (
            f" {number}  {submit} {wait} {run} {allocated} -1 -1 {requested}"
            f" -1 -1 {status} 1 1 1 3 -1 -1 -1\n"
        )

    text = (
        "; Version: 2.2\n; Computer: none\n"
        + job(1, 0, 5, 100, 16, -1, 1)
        + job(1, 0, 5, 50, 16, -1, 2)
        + job(2, 10, -1, 20, -1, 4, 5)
        + job(3, 12, -1, -1, 4, 4, 0)
    )
    trace = load(write(tmp_path, text, "t.swf"))
    assert (trace.form, trace.vcs) == ("swf", ("3",))
    assert trace.num_gpus.tolist() == [16, 4]
    assert np.nan_to_num(trace.queue_s, nan=-1).tolist() == [5, -1]
    assert trace.outcome.tolist() == [1, 2]
    assert trace.noted == {"steps": 1, "unfinished": 1}
    with pytest.raises(Refused) as refused:
        load(write(tmp_path, text + job(4, 9, 0, 1, 1, 1, 1), "late.swf"))
    assert refused.value.faults[0].what == "1 row: out of order"
    assert "line 7" in refused.value.faults[0].where


# Bad input

BAD = (
    PLAIN + "a,4,10,1,x\n"
    "b,,10,1,x\n"
    "c,5,-3,1,x\n"
    "\n"
    "d,6,inf,1,x\n"
    "e,7,10,1.5,x\n"
    "f,8,10,-2,x\n"
    "g,9,ten,1,x\n"
    "h,10,10,64,x\n"
    "i,11,10,8,small\n"
    "j,12,10,1,elsewhere\n"
    "k,3,10,1,x\n"
    "k,3,10\n"
    "a,20,10,1,x\n"
    "l,21,10,1,x\n"
    ",,,,\n"
    "m,22,10,0,x\n"
)
POOLS = [VcPool("x", 64, 8), VcPool("small", 4, 4)]
KINDS = {
    3: "hole",
    4: "bad duration",
    6: "bad duration",
    7: "bad GPU count",
    8: "bad GPU count",
    9: "unreadable cell",
    10: "larger than the cluster",
    11: "larger than its virtual cluster",
    12: "unknown virtual cluster",
    13: "out of order",
    14: "no row",
    15: "job id twice",
}


def test_every_unsound_row_is_told_by_its_line_and_kind_and_the_rest_is_kept(tmp_path):
    path = write(tmp_path, BAD)
    trace = load(path, on_fault="skip", gpus=32, vc_pools=POOLS)
    assert {fault.line: fault.what for fault in trace.faults} == KINDS
    kinds = list(KINDS.values())
    assert trace.fault_counts == {kind: kinds.count(kind) for kind in kinds}
    assert trace.job_id.tolist() == ["a", "l"]
    assert trace.noted == {"blank": 2, "cpu_only": 1}


def test_a_refusal_has_one_fault_for_each_kind_with_lines_and_remedy(tmp_path):
    with pytest.raises(Refused) as refused:
        load(write(tmp_path, BAD), gpus=32, vc_pools=POOLS)
    told = {fault.what.split(": ")[1]: fault for fault in refused.value.faults}
    assert set(told) == set(KINDS.values())
    assert told["bad duration"].what == "2 rows: bad duration"
    assert told["bad duration"].where.endswith("line 4, 6")
    assert told["unreadable cell"].why == "line 9: duration_s is 'ten', no number"
    assert told["larger than its virtual cluster"].why == "line 11: 8 GPUs of 4 in 'small'"
    assert all("--skip" in fault.remedy for fault in told.values())


def test_order_is_judged_among_the_rows_that_are_kept(tmp_path):
    text = PLAIN + "a,0,10,1,x\nb,900,-5,1,x\nc,20,10,1,x\na,800,10,1,x\nd,30,10,1,x\ne,25,9,1,x\n"
    trace = load(write(tmp_path, text), on_fault="skip")
    assert trace.job_id.tolist() == ["a", "c", "d"]
    assert trace.fault_counts == {"bad duration": 1, "out of order": 1, "job id twice": 1}


def test_lines_of_a_kind_are_told_in_order_a_row_with_two_holes_once(tmp_path):
    text = PLAIN + "a,1,10,,x\nb,1,,1,x\nc,,,1,x\n,2,10,1,x\nd,3,10,1,x\n"
    with pytest.raises(Refused) as refused:
        load(write(tmp_path, text))
    (fault,) = refused.value.faults
    assert fault.what == "4 rows: hole"
    assert fault.where.endswith("line 2, 3, 4, 5")
    assert fault.why == "line 2: the number of GPUs is missing"
    assert "gigafactory trace " in fault.remedy
    assert "--skip --out CLEAN.parquet" in fault.remedy


def test_all_faults_are_counted_though_only_the_first_are_told(tmp_path):
    path = write(tmp_path, SOUND + "".join(f"x{k},{10 + k},-1,1,x\n" for k in range(100)))
    trace = load(path, on_fault="skip")
    assert trace.fault_counts == {"bad duration": 100}
    assert [fault.line for fault in trace.faults] == list(range(5, 25))


def test_a_start_before_the_submission_is_a_fault_and_unsorted_logs_are_not(tmp_path):
    lines = HELIOS.splitlines(keepends=True)
    trace = load(write(tmp_path, "".join([lines[0], *reversed(lines[1:])])))
    assert trace.noted["sorted"] == 2
    assert trace.job_id.tolist() == [11, 12, 14]
    with pytest.raises(Refused, match="starts before it was submitted"):
        load(write(tmp_path, HELIOS.replace(",246,3", ",246,-3")))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("t.csv", b"", "it is empty"),
        ("t.csv", b"\n \n", "it is empty"),
        ("t.csv", PLAIN.encode(), "a header and no rows"),
        ("t.parquet", SOUND.encode(), "does not begin with PAR1"),
        ("t.parquet", b"PAR1" + b"x" * 40, "begins like Parquet, but"),
        ("t.csv.gz", b"\x1f\x8b" + b"x" * 40, "begins like gzip, but"),
        ("t.json", b'[{"attempts": ', "begins like JSON, but"),
        ("t.json", b'{"jobs": []}', "must be a list of jobs"),
        ("t.csv", b"submit_s,duration_s\n1,2\n", "columns missing for the form plain: num_gpus"),
        ("t.csv", b"submit_s,submit_s,duration_s,num_gpus\n1,1,1,1\n", "submit_s is there twice"),
        ("t.csv", "größe\n1\n".encode("utf-16"), "neither Parquet nor text in UTF-8"),
        ("t.csv", b"submit_s,duration_s,num_gpus\n1,1,0\n", "1 cpu only"),
    ],
)
def test_what_is_no_trace_is_refused_with_the_reason(tmp_path, name, content, why):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Refused) as refused:
        load(path)
    assert why in refused.value.faults[0].why


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["0", "5", "7.5", "", "-1", "nan", "inf", "x", "1e400", "2020-01-01"]),
            st.sampled_from(["0", "10", "-2", "", "inf", "?", "1_0"]),
            st.sampled_from(["0", "1", "8", "1.5", "-1", "", "9999999999", "two"]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_every_row_is_a_job_a_note_or_a_fault(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    lines = [("submit_s", "duration_s", "num_gpus"), *rows, ("9", "1", "1")]
    path.write_text("".join(f"{','.join(cells)}\n" for cells in lines))
    trace = load(path, on_fault="skip")
    noted = sum(trace.noted.get(name, 0) for name in ("blank", "cpu_only", "unfinished"))
    faulty = {fault.line for fault in trace.faults}
    assert len(trace) + noted + len(faulty) == len(rows) + 1
    assert (np.diff(trace.submit_s) >= 0).all()
    assert (trace.num_gpus > 0).all()


def test_pools_are_whole_nodes_and_all_that_is_wrong_is_said_at_once(tmp_path):
    good = write(tmp_path, "vc,gpus,gpus_per_node\n11cb48,128,8\nx,12,4\n")
    assert pools(good) == [VcPool("11cb48", 128, 8), VcPool("x", 12, 4)]
    bad = write(tmp_path, "vc,gpus,gpus_per_node\na,12,8\nb,8,8\nb,8,8\n,8,8\nc,,8\nd,8\n")
    with pytest.raises(Refused) as refused:
        pools(bad)
    assert sorted(fault.where[-1] for fault in refused.value.faults) == list("24567")
    with pytest.raises(Refused, match="no list of virtual clusters"):
        pools(write(tmp_path, "vc,gpus\na,8\n"))


# Against what was published, and after it


def copy_of(name, jobs_share=1.0):
    """A trace with the figures of a cluster, as if it were read."""
    jobs = round(traces.published.published(name)["jobs"] * jobs_share)
    made = like(name, jobs, 30, 0)
    return traces.Trace(**{**vars(made), "form": "plain"})


def test_a_copy_with_fewer_jobs_is_never_called_the_published_trace():
    copy = copy_of("Philly", 0.73)
    found = against(copy, "Philly")
    ratios = {one.quantity: one.ratio for one in found}
    assert ratios["jobs"] == pytest.approx(0.73, abs=1e-4)
    said = verdict(copy, "Philly", found)
    assert said.startswith("This is not the published trace of Philly: it has 73% of its jobs")


def test_a_copy_that_agrees_in_all_that_it_knows_is_said_to():
    whole = copy_of("Philly")
    unknown = np.zeros(len(whole), np.int8)
    found = against(traces.Trace(**{**vars(whole), "outcome": unknown}), "Philly")
    assert {one.quantity for one in found} >= {"jobs", "run_time_mean", "gpus_mean", "gpu_time"}
    assert verdict(whole, "Philly", found).startswith("It agrees with the published summary")
    half = traces.Trace(**{**vars(whole), "duration_s": whole.duration_s / 2})
    assert "not the published" in verdict(half, "Philly", against(half, "Philly"))


def test_gpu_time_is_the_sum_of_the_published_outcomes():
    told = traces.published.published("Philly")
    assert told["gpu_time"] == 2210176414 + 2025326056 + 2659215061
    assert told["failed_gpu_time_share"] == pytest.approx(0.386, abs=5e-4)  # As published.


def test_a_published_zero_has_no_ratio():
    made = like("Helios", 100, 1, 0)
    waited = traces.Trace(**{**vars(made), "queue_s": np.full(100, 7.0)})
    median = next(one for one in against(waited, "Helios") if one.quantity == "queue_median")
    assert (median.published, median.here, median.ratio) == (0, 7, None)


@pytest.mark.parametrize("name", sorted(set(traces.names()) - {"PAI"}))
def test_a_made_up_trace_has_the_published_figures(name):
    made = like(name, 100_000, 30, 3)
    ratios = {one.quantity: one.ratio for one in against(made, name)}
    for quantity in ("run_time_mean", "run_time_median", "gpus_mean"):
        assert ratios[quantity] == pytest.approx(1, abs=0.02), quantity
    assert ratios["gpus_median"] == 1
    for word in ("completed", "cancelled", "failed"):
        assert ratios[f"{word}_share"] == pytest.approx(1, abs=0.005), word
    assert ratios["gpu_time"] / ratios["jobs"] == pytest.approx(1, abs=0.05)
    assert "Modelled" in verdict(made, name, against(made, name))


def test_made_up_jobs_come_by_day_more_than_by_night_and_less_at_the_weekend():
    hours = like("Seren", 100_000, 28, 1).submit_s / 3600
    assert (hours >= 0).all()
    assert (hours <= 28 * 24).all()
    by_hour = np.bincount((hours % 24).astype(int), minlength=24)
    assert by_hour.argmax() in range(14, 20)
    assert by_hour.max() > 3 * by_hour.min()
    weekend = (hours // 24 % 7 >= 5).mean()
    assert weekend == pytest.approx(2 * 0.65 / (5 + 2 * 0.65), abs=0.01)


def test_the_same_seed_makes_the_same_trace_and_another_another():
    one, same, other = (like("Venus", 500, 2, seed) for seed in (1, 1, 2))
    for name in ("submit_s", "duration_s", "num_gpus", "outcome"):
        assert np.array_equal(getattr(one, name), getattr(same, name))
    assert not np.array_equal(one.duration_s, other.duration_s)
    assert summary(like("Venus", 1, 1, 1))["jobs"] == 1


def test_what_cannot_be_made_up_is_refused():
    for words in (("PAI", 10, 1, 1), ("Seren", 0, 1, 1), ("Seren", 1, float("nan"), 1)):
        with pytest.raises(Refused):
            like(*words)
    with pytest.raises(Refused) as refused:
        like("Philadelphy", 10, 1, 1)
    assert refused.value.faults[0].remedy == "did you mean Philly?"


# The command


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_the_command_writes_a_trace_that_it_reads_back_whole(tmp_path, suffix):
    out = tmp_path / f"t{suffix}"
    made = gigafactory("--like", "seren", "--jobs", 300, "--days", 2, "--out", out, "--json")
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)
    assert (told["modelled"], told["like"]) == (True, "Seren")
    assert list(tmp_path.iterdir()) == [out]
    back = gigafactory(out, "--against", "Seren", "--json")
    assert back.exit_code == 0, back.output
    read = json.loads(back.stdout)
    assert read["summary"] == pytest.approx(told["summary"])
    assert read["against"]["verdict"].startswith("This is not the published trace of Seren")


def test_the_command_refuses_or_skips_and_says_what_it_left_out(tmp_path):
    path = write(tmp_path, BAD)
    own = write(tmp_path, "vc,gpus,gpus_per_node\nx,64,8\nsmall,4,4\n", "vc.csv")
    words = (path, "--gpus", 32, "--vc-gpus", own)
    refused = gigafactory(*words, "--json")
    assert refused.exit_code == 2
    assert len(json.loads(refused.stdout)["errors"]) == len(set(KINDS.values()))
    skipped = gigafactory(*words, "--skip")
    assert skipped.exit_code == 0, skipped.output
    assert "Left out: 2 with bad duration (line 4: runs -3 s)." in skipped.stdout
    assert "2 GPU jobs, form plain" in skipped.stdout


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["t.csv", "--like", "Seren"],
        ["--like", "Seren", "--skip"],
        ["--like", "Seren", "--out", "t.txt"],
        ["t.csv", "--out", "t.csv"],
        ["t.csv", "--against", "Nowhere"],
        ["t.csv", "--form", "nowhere"],
        ["nowhere.csv"],
    ],
)
def test_the_command_refuses_what_does_not_go_together(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, SOUND)
    answer = gigafactory(*words, "--json")
    assert answer.exit_code == 2
    assert set(json.loads(answer.stdout)["errors"][0]) == {"what", "where", "why", "remedy"}
    assert (tmp_path / "t.csv").read_text() == SOUND


def test_a_small_gpu_time_is_shown_with_its_digits():
    assert tracing._figure("gpu_time", 0.48 * 3600) == "0.48 GPU-h"
    assert tracing._figure("gpu_time", 0.0) == "0 GPU-h"
    assert tracing._figure("gpu_time", 1.2e6 * 3600) == "1,200,000 GPU-h"
