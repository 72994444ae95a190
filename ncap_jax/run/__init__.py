"""One run: which model trains when and where, and what is kept of it.

`pipeline.rank` is the main job. `schedule` decides who trains up to which epoch, `worker` trains
one model, the executors (`executors`, `processes`, `ray_workers`) say where, and `folder` keeps
what a run that was stopped resumes from.
"""
