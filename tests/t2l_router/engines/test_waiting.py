from t2l_router.engines.waiting import FairQueue


def drain(queue: FairQueue[str]) -> list[str]:
    """All jobs in their order."""
    jobs = []
    while queue:
        jobs.append(queue.first())
        queue.take(jobs[-1])
    return jobs


def test_flows_take_turns():
    """A flow with many jobs and one with few go side by side, each in its own order."""
    queue: FairQueue[str] = FairQueue()
    for job in ("a1", "a2", "a3", "a4", "b1", "b2"):
        queue.push(job, job[0])

    assert drain(queue) == ["a1", "b1", "a2", "b2", "a3", "a4"]


def test_new_flows_don_t_starve_an_old_job():
    """A job waits for a bounded number of others, however many flows come after it."""
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.push(f"busy {number}", "busy")
    taken = []
    for number in range(20):
        queue.push(f"rare {number}", number)
        taken.append(queue.first())
        queue.take(taken[-1])

    assert "busy 3" in taken


def test_removed_job():
    """A job that was taken out doesn't go, and taking it again does nothing."""
    queue: FairQueue[str] = FairQueue()
    for job in ("a1", "a2"):
        queue.push(job, "a")

    queue.remove("a1")
    queue.take("a1")

    assert len(queue) == 1
    assert queue.clear() == ["a2"]
    assert len(queue) == 0
