"""Training an adapter from corrections, its gate, and putting it to use: the steps of `fourfold refine`."""

import time
from pathlib import Path
from typing import Any

import streamlit as st

from fourfold.assistant.refine.registry import Gate
from fourfold.ui.state.refine_jobs import Job, last, start
from fourfold.ui.state.session import Session
from fourfold.ui.views.markdown import plain

_WORDS = {
    "train": "Learning from the corrections",
    "gate": "Measuring the adapter",
    "promote": "Putting the adapter to use",
    "rollback": "Going back",
}
_VERDICTS = {"better": ":green[better]", "worse": ":red[worse]"}


def show_learning(found: Session) -> None:
    job = last()
    if job is not None and not job.done:
        st.caption("Something is being learnt or measured; the steps are here again when it is done.")
        return
    if job is not None:
        _ended(found, job)
    current = found.registry.state()
    revisions = [revision for revision in current.revisions.values() if not revision.removed]
    newest = revisions[-1] if revisions else None
    with st.container(border=True):
        st.markdown("**1 · Learn**")
        ready = found.store.count(consented=True)
        noun = "record" if ready == 1 else "records"
        st.caption(f"{ready} {noun} may be trained with. On two processor cores this takes some minutes.")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            steps = st.number_input(
                "Steps at most", 1, 100_000, None, placeholder="by their number", key="train-steps", width=180
            )
            again = job is not None and job.verb == "train" and job.stopped and job.result is None
            go = st.button(
                "Go on learning" if again else "Learn from them",
                type="primary",
                key="train",
                disabled=not ready,
                icon=":material/school:",
            )
        if go:
            _start(found, "train", [*_model(found), *(["--max-steps", str(int(steps))] if steps else [])])
    with st.container(border=True):
        st.markdown("**2 · Measure**")
        if newest is None:
            st.caption("There is no adapter yet.")
        else:
            st.caption(f"Adapter {newest.id}, trained {_when(newest.created)} from {len(newest.records)} records.")
            label = "Measure it" if newest.gate is None else "Measure it again"
            if st.button(label, key="gate", type="primary" if newest.gate is None else "secondary"):
                _start(found, "gate", [newest.id, *_model(found)])
            if newest.gate is not None:
                _show_gate(newest.gate)
    with st.container(border=True):
        st.markdown("**3 · Use**")
        in_use = f"The adapter {current.current} is in use." if current.current else "The model answers as shipped."
        st.caption(in_use)
        follower = found.settings.follower
        if found.endpoint is not None and (follower is None or follower.url != found.endpoint.url):
            st.caption(f"The endpoint `{found.endpoint.url}` is not this page's own: it is told nothing of it.")
        with st.container(horizontal=True):
            passed = newest is not None and newest.gate is not None and newest.gate.promotable
            new = newest is not None and newest.id != current.current
            if st.button("Use the new adapter", type="primary", key="promote", disabled=not (passed and new)):
                assert newest is not None
                _start(found, "promote", [newest.id])
            if st.button("Go back", key="rollback", icon=":material/undo:", disabled=current.current is None):
                _start(found, "rollback", [])
        if newest is not None and newest.gate is not None and not newest.gate.promotable:
            st.caption("The gate refused it. Correct more, or read its report.")
    if current.events:
        with st.expander("History", icon=":material/history:"):
            for event in reversed(current.events):
                forced = ", against the gate" if event.forced else ""
                st.caption(f"{_when(event.time)}: {event.what} {event.revision or 'the model as shipped'}{forced}")


def show_job(job: Job) -> None:
    """How far it has come."""
    if job.done:
        st.rerun()
    with st.container(border=True, key="job"):
        st.markdown(f"**{_WORDS.get(job.verb, job.verb)}**")
        told = job.progress
        stage = plain(told.stage[:1].upper() + told.stage[1:])
        if job.part is None:  # nobody knows how long it takes
            st.markdown(f":material/hourglass_top: {stage}…")
        else:
            left = "" if job.left is None else f", about {_span(job.left)} more"
            st.progress(job.part, f"{stage}: {told.done} of {told.total}{left}")
        st.caption(
            f"For {_span(time.time() - job.began)} now. It goes on when you close this page, as long as `fourfold ui` "
            "runs. Stopped, it can be gone on with."
        )
        if st.button("Stopping…" if job.stopped else "Stop", key="job-stop", icon=":material/stop_circle:"):
            job.stop()


def _span(seconds: float) -> str:
    """A length of time, as exactly as anybody wants to know it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _ended(found: Session, job: Job) -> None:
    if st.session_state.get("job_seen") != job.began:
        st.session_state.job_seen = job.began
        if job.verb in ("promote", "rollback"):
            found.disconnect(found.endpoint)  # what is served has changed
            found.preferences.model = ""
    if job.error:
        st.error(plain(job.error), icon=":material/error:")
    elif job.stopped and job.result is None:
        st.info(f"{_WORDS.get(job.verb, job.verb)} was stopped. Begun again, it goes on from there.")
    elif job.verb == "train" and job.result and (doubts := _doubts(job.result)):
        with st.expander(f"{len(doubts)} corrections were left out", icon=":material/help:"):
            for doubt in doubts:
                st.caption(plain(f"{doubt.get('id', '')}: {doubt.get('reason', '')}"))


def _doubts(result: dict[str, Any]) -> list[dict[str, Any]]:
    corrections = result.get("corrections")
    return list(corrections.get("doubtful") or []) if isinstance(corrections, dict) else []


def _show_gate(gate: Gate) -> None:
    summary = gate.summary
    if gate.promotable:
        st.success("It may be used.", icon=":material/verified:")
    else:
        st.warning("It is not good enough to be used.", icon=":material/block:")
    for reason in summary.get("reasons", []):
        st.caption(plain(str(reason)))
    rows = ["| | before | after | change | |", "|---|---:|---:|---:|---|"]
    for part in summary.get("slices", []):
        verdict = _VERDICTS.get(part["verdict"], "no difference shown")
        cells = [plain(part["name"]), _number(part["before"]), _number(part["after"])]
        cells += [_number(part["change"]["difference"], signed=True), verdict]
        rows.append("| " + " | ".join(cells) + " |")
    if len(rows) > 2:
        st.markdown("\n".join(rows))
    if gate.report and Path(gate.report).is_file():
        page = Path(gate.report).read_bytes()
        st.download_button("The whole report", page, "gate.html", "text/html", icon=":material/description:")


def _number(estimate: dict[str, Any], *, signed: bool = False) -> str:
    """An `eval.statistics.Estimate` as JSON, in percent: the mean and, of a difference, half its 95 % interval."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if not signed:
        return f"{value:.0f}"
    return f"{value:+.0f}" if low is None or high is None else f"{value:+.0f} ± {(high - low) / 2:.0f}"


def _start(found: Session, verb: str, options: list[str]) -> None:
    """Run a verb of `fourfold refine`; who answers is changed here, and in the server that follows."""
    follower = found.settings.follower if verb in ("promote", "rollback") else None
    if follower is not None:
        start(verb, [*options, "--endpoint", follower.url], found.settings.corrections, follower.key)
    else:
        start(verb, options, found.settings.corrections)
    st.rerun()


def _model(found: Session) -> list[str]:
    server = found.settings.server
    return ["--model", server.model] if server is not None and server.model else []


def _when(seconds: float) -> str:
    return time.strftime("%d %b %Y, %H:%M", time.localtime(seconds))
