"""Fault injection: the real stack under a queue of jobs, faults at random moments, and what must hold all the same.

__main__ ──> stack     `tunesmith up` and a second worker, with `site/` on their PYTHONPATH
         ├─> customers jobs of many plans, sent with idempotency keys, cancelled, paused, resumed
         ├─> faults    one function a kind: what is killed, frozen, torn, filled, set wrong
         └─> verdicts  the invariants, asked of the API, the files and the trainers' journal

trainer    what takes the place of `worker.training`: a real training of a tiny network, the same events and files
injection  inside the processes under test: delays and deaths at named places, a clock that is wrong
"""
