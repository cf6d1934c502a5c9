"""docs/proof.md from the figures."""

COMMANDS = "`./benches/run {}`"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def verdict(is_now, target, good):
    return f"{is_now}; target {target}: {'met' if good else '**missed**'}"


def at_most(value, most, unit=""):
    return verdict(f"{value:g}{unit}", f"at most {most:g}{unit}", value <= most)


def at_least(value, least):
    return verdict(f"{value:.2f} times", f"at least {least}", value >= least)


def on_musl(us):
    """The same beside each other with musl, as far as it was there."""
    rows = [[what, us[f"{name}, musl"]] for what, name in [
        ("empty static C", "empty"), ("the floor", "floor"), *((f"**{stage}**", stage) for stage in ["prestart", "poststart", "poststop"])]
        if f"{name}, musl" in us]
    if not rows:
        return ""
    text = f"""With musl, in the same rounds. glibc's start asks the processor what it is; where a hypervisor answers, that is most of what
an empty program costs:

{table(["process", "median µs"], rows)}

"""
    if "prestart, musl" in us:
        text += f"- The leanest bash hook beside prestart built for musl: {at_least(us['bash, lean'] / us['prestart, musl'], 5)}.\n\n"
    return text


def hooks(f):
    us = f["median_us"]
    rows = [["empty static C, reads its input", us["empty"], ""]]
    prestart, lean = us["prestart"], us["bash, lean"]
    rows += [["`benches/floor.c`: the system calls alone", us["floor"], ""],
             ["**prestart**", prestart, f"{prestart / us['floor']:.2f} times the floor, {prestart / us['empty']:.2f} times empty"],
             ["bash, lean (`benches/hook-lean`)", lean, f"{lean / prestart:.1f} times prestart"],
             ["bash, usual (`benches/hook-usual`: jq, nsenter, mount)", us["bash, usual"],
              f"{us['bash, usual'] / prestart:.1f} times prestart"]]
    for stage in ["poststart", "poststop"]:
        empty = us[f"empty beside {stage}"]
        rows.append([f"**{stage}**", us[stage], f"{us[stage] / empty:.2f} times empty ({empty} µs beside it)"])
    return f"""## Hooks as whole processes

{COMMANDS.format("hooks")}: release build, one volume, record, lease and log on; in turn, {f["rounds"]} rounds, a container for each.

{table(["process", "median µs", "ratio"], rows)}

- prestart beside the floor: {at_most(round(prestart / us["floor"], 2), 1.4)}.
- The leanest bash hook beside prestart: {at_least(us["bash, lean"] / prestart, 5)}.
- The usual bash hook beside prestart: {at_least(us["bash, usual"] / prestart, 50)}.

{on_musl(us)}The floor makes what prestart must make for one volume and nothing else: it parses only the pid, compares nothing, plans
nothing and undoes nothing. Its list of system calls is compared with a trace of it. prestart makes 31 more,
and is a larger program. Processes that run long lose the processor to others more often: the usual bash hook is at its best
about 200 ms here."""


def calls(f):
    rows = [[stage, f[stage]["one volume"], f"{f[stage]['further volume']:g}"] for stage in ["prestart", "poststart", "poststop"]]
    prestart = f["prestart"]
    return f"""## System calls after main

{COMMANDS.format("calls")}, with the state in a pipe whose writer is gone, and without exit_group; the floor makes {f["floor"]}.
`tests/speed.rs` fails when they change.

{table(["hook", "one volume", "each further volume"], rows)}

- prestart: {at_most(prestart["one volume"], 90)}. Each further volume: {at_most(prestart["further volume"], 25)}.

The floor's, as `floor list` prints them: {", ".join(f["floor_list"])}."""


def instructions(f):
    rows = [[stage, f"{row['one volume']:,}", f"{row['further volume']:,}"] for stage, row in f.items()]
    return f"""## Instructions

`./benches/instructions`: callgrind counts the whole process; it exits 1 when one is more than 10 % above
`benches/instructions.json`.

{table(["hook", "one volume", "each further volume"], rows)}"""


def memory(f):
    rows = [[size, f"{peak:g}"] for size, peak in f.items()]
    return f"""## Memory

{COMMANDS.format("memory")}: the largest peak of the three hooks, as wait4(2) tells it.

{table(["state", "peak KiB"], rows)}

- State of up to 64 KiB: {at_most(max(f.values()), 3072, " KiB")}."""


def starts(f):
    rows = []
    for runtime in ["runc", "crun"]:
        us = f[runtime]
        rows.append([f"`{runtime} run`", *(f"{us[kind] / 1000:.1f}" for kind in ["none", "empty", "ours"]), f"{us['ours'] / us['empty']:.2f}"])
    us = f["podman"]
    ratio = f["crun"]["ours"] / f["crun"]["empty"]
    return f"""## Whole containers

{COMMANDS.format("starts")}: `run` of a container that does nothing, in turn, {f["rounds"]} rounds, medians in milliseconds.

{table(["", "no hooks", "three empty C programs", "three hooks of ours", "ratio of the last two"], rows)}

- Under `crun run`: {at_most(round(ratio, 2), 1.4)}.

`podman run --rm` (crun): {us["none"] / 1000:.0f} ms without a volume, {us["-v"] / 1000:.0f} ms with its own `-v`, {us["ours"] / 1000:.0f} ms with a volume of ours ({us["ours"] / us["-v"]:.2f} times `-v`)."""


def growth(f):
    rows = [[one["of"], f"{one['points']['prestart'][0][0]:,} to {one['points']['prestart'][-1][0]:,}",
             *(f"{one['slope_us'][stage]:.2f}" for stage in ["prestart", "poststart", "poststop"])] for one in f.values()]
    pictures = "\n".join(f"![Time by {one['of']}](growth-{kind}.svg)" for kind, one in f.items())
    return f"""## Growth

{COMMANDS.format("growth")}: medians of whole processes' processor time, and what each one more costs (the median slope between two points), in microseconds.

{table(["of", "range", "prestart", "poststart", "poststop"], rows)}

The benchmark's container keeps the host's mounts, which one that has left for its root filesystem does not: poststart reads the
container's own mount table.

{pictures}"""


def ownership(f):
    rows = [[name, f"{value:g}"] for name, value in f.items()]
    return f"""## Idmapped mount beside chown -R

`./benches/ownership` (also {COMMANDS.format("ownership")}): podman, crun, `--userns=auto`, medians in milliseconds.

{table(["what", "figure"], rows)}"""


SECTIONS = [hooks, calls, instructions, memory, starts, growth, ownership]


def document(figures):
    machine = figures["machine"]
    parts = [f"""# Speed

Written by `./benches/run`; the figures are in [proof.json](proof.json). Nothing here is asserted by tests but the counts.
A virtual machine with {machine["cores"]} cores that others use too, so that ratios of runs in turn say more than times; Linux {machine["kernel"]};
{", ".join(machine["versions"])}."""]
    parts += [section(figures[section.__name__]) for section in SECTIONS if section.__name__ in figures]
    return "\n\n".join(parts) + "\n"
