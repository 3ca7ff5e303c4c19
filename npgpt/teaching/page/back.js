// The way back: every gradient, the parameters, and a step of the optimizer; then the page is put together.

function wayBack() {
  const order = OPS.map((op, i) => [op, i]).filter(([op]) => op.order !== null).sort(([a], [b]) => a.order - b.order);
  const norm = (place) => VALUES[place].norm, largest = Math.max(...order.map(([op]) => norm(op.result)).slice(1));
  const rows = order.map(([op, i]) => [String(op.order + 1), to(i, title(op), true),
    el("span", { class: "size" }, el("i", { style: `width: ${Math.min(100, (100 * norm(op.result)) / largest).toFixed(1)}%` }), el("span", {}, number(norm(op.result), 3))),
    op.inputs.filter((place) => place !== null && VALUES[place].gradient !== null).map((place) => VALUES[place])
      .map((value, n, all) => [n ? ", " : "", value.parameter ? el("code", {}, value.parameter) : all.filter((other) => !other.parameter).length > 1 ? `input ${n + 1}` : "its input"])]);
  return section("back", `${5 + MODEL.n_layer}. The way back`,
    el("p", {}, "In which direction should each number change, so that the loss gets smaller? Its gradient tells. A gradient is a slope: if the number grows by a tiny h, the loss grows by the gradient times h. So the number should move against its gradient. We write dx for the gradient of x, and x and dx have the same shape."),
    el("p", {}, "For the loss itself it is 1. From there we go back through the operations, the last first. Each gets dy, the gradient of its result, and computes from it, by the chain rule, the gradients of what it took. If something was used twice, its two gradients are added. This happens wherever the stream goes both around a block and into it."),
    table(["step", "back through", "norm of dy", "and gives the gradients of"], rows, "words"),
    el("p", {}, "Follow one: open a step, and click on a gradient to go to the one that it was computed from."));
}

function parameters() {
  const rows = VALUES.map((value, place) => [value, place]).filter(([value]) => value.parameter && value.gradient !== null);
  const checked = VALUES.filter((value) => value.slope), worst = Math.max(...checked.map((value) => apart(value.slope)));
  return section("parameters", `${6 + MODEL.n_layer}. Every parameter`,
    el("p", {}, "Here the gradients end: in the numbers that the model has learned, and can change."),
    checked.length ? el("p", {}, `Are they right? That can be seen without any formula. Take one element, make it a little larger, run the whole model again, and note the loss; then a little smaller. The difference of the two losses, divided by that of the two elements, is the slope, and the gradient must be the same. For this page that was done at the element with the largest gradient of every parameter and of every result on the way, ${checked.length} times, in float64. The gradients are the float32 ones of training; none is off by more than ${number(worst, 2)} of its slope.`)
      : el("p", { class: "note" }, "The page was made without slopes, which would compare each gradient with the losses at both sides of an element."),
    el("div", { class: "cards two" }, rows.map(([value, place]) => {
      const holder = el("div", { class: "inside" });
      const made = el("details", { class: "card", id: `parameter-${place}` }, el("summary", {}, el("code", {}, value.parameter), " ", el("span", { class: "quiet" }, shape(array(value.data).shape)),
        value.slope ? [" ", el("span", { class: "agree" }, `slope ${number(value.slope.slope, 7)}, gradient ${number(value.slope.gradient, 7)}`)] : null), holder);
      made.addEventListener("toggle", () => {
        if (made.open && !holder.childNodes.length) holder.append(...[picture(place, value.parameter), picture(place, `gradient of ${value.parameter}`, true), comesFrom(value), slopeOf(value)].filter(Boolean));
      });
      return made;
    })));
}

function adamw() {
  const { parameter, index, lr, betas: [beta1, beta2], eps, weight_decay: decay, before, g, m, v, after, loss_before, loss_after } = DATA.adamw;
  const mHat = m / (1 - beta1), vHat = v / (1 - beta2), decayed = before * (1 - lr * decay);
  const math = (...nodes) => formula(["mrow", ...nodes]);
  const i = (name) => ["mi", name], o = (sign) => ["mo", sign], n = (x) => ["mn", number(x, 6)], sub = (name, low) => ["msub", i(name), ["mn", low]];
  const beta = (which) => sub("β", String(which)), hat = (name) => ["mover", i(name), o("^")];
  const step = (text, left, right, value) => [text, math(left, o("="), ...right), number(value, 6)];
  const gap = ["mspace"];
  return section("adamw", `${7 + MODEL.n_layer}. What AdamW does with one of them`,
    el("p", {}, "The gradient says in which direction; the optimizer decides how far. We watch it at one element of ", el("code", {}, parameter), `, [${index.join(", ")}], in the very first step, with lr = ${lr}, β₁ = ${beta1}, β₂ = ${beta2} and weight decay ${decay}.`),
    table(["", "formula", "here"], [
      step("the gradient", i("g"), [["mfrac", ["mrow", o("∂"), i("loss")], ["mrow", o("∂"), i("p")]]], g),
      step("running mean, from 0", i("m"), [beta1Term(beta(1), i("m")), o("+"), o("("), ["mn", "1"], o("−"), beta(1), o(")"), gap, i("g")], m),
      step("running mean of squares, from 0", i("v"), [beta1Term(beta(2), i("v")), o("+"), o("("), ["mn", "1"], o("−"), beta(2), o(")"), gap, ["msup", i("g"), ["mn", "2"]]], v),
      step("corrected, since m began at 0", hat("m"), [["mfrac", i("m"), ["mrow", ["mn", "1"], o("−"), ["msup", beta(1), i("t")]]]], mHat),
      step("corrected, since v began at 0", hat("v"), [["mfrac", i("v"), ["mrow", ["mn", "1"], o("−"), ["msup", beta(2), i("t")]]]], vHat),
      step("before the step", i("p"), [n(before)], before),
      step("decay: a little towards 0", i("p"), [i("p"), o("("), ["mn", "1"], o("−"), i("lr"), gap, i("decay"), o(")")], decayed),
      step("after the step", i("p"), [i("p"), o("−"), i("lr"), gap, ["mfrac", hat("m"), ["mrow", ["msqrt", hat("v")], o("+"), i("ε")]]], after)], "words adamw"),
    el("p", {}, `In the first step the mean divided by the root of the squares' mean is the gradient's sign: each number moves by lr = ${lr}, however large its gradient is (ε = ${eps} only keeps the division from failing). From the second step on, gradients that agree move it far, and gradients of changing sign hardly move it.`),
    el("p", {}, "All parameters make their step at the same time. The loss of the same sentence was ", el("b", {}, number(loss_before, 5)), " before the step and is ", el("b", {}, number(loss_after, 5)), " after it", loss_after < loss_before ? ". That is learning; training does it thousands of times, with many sentences." : ": a step this large overshot here."));
}
const beta1Term = (beta, name) => ["mrow", beta, ["mspace"], name];

function ending() {
  const files = ["gpt.py", "layers.py", "tensor.py", "autograd.py", "optim.py"].map((file, i) => [i ? ", " : "", el("code", {}, `npgpt/${file}`)]);
  return el("footer", {}, el("p", {}, "Made by ", el("code", {}, "python -m npgpt.explain"), ". The code of the model is short enough to be read: ", files, ". In Python, ", el("code", {}, "with npgpt.trace(model) as t:"), " records the same numbers for whatever is computed in the block."));
}

document.getElementById("page").replaceChildren(opening(), wordBar(), overview(), tokens(), embedding(), ...blocks(), prediction(), loss(), wayBack(), parameters(), adamw(), ending());
if (location.hash) goTo(location.hash);
