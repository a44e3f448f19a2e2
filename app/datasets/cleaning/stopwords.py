"""The small words that running text is full of. A Chinese character counts as a word."""

STOP_WORDS = {
    "zh": tuple(
        "的 了 是 在 我 有 和 就 不 人 都 一 也 很 到 说 要 去 你 会 着 没 看 好 这 那 他 她 它 们 与 为 之 而 于 以 及"
        " 或 但 并 被 把 对 从 中 等 其 所 可 能 来 个 上 下 里 得 地 过 还 又 再 如 若 因 由 向 将 让 给 使 此 该 每"
        " 各 某 什么 怎么 怎样 如何 为什么 哪 谁 吗 呢 吧 啊 自己 我们 你们 他们 这个 那个 这些 那些 这样 那样 因为 所以"
        " 但是 而且 如果 虽然 然后 可以 可能 应该 需要 一个 一些 一种 没有 已经 通过 进行 以及 或者 并且 关于 对于 例如"
        " 比如 其中 同时 之间 以下 以上 非常 更 最 只 当 时 用 请 做 想 多 大 小 出 成 种 些 后 前".split()
    ),
    "en": tuple(
        "a about above after again against all am an and any are aren't as at be because been"
        " before being below between both but by can can't cannot could couldn't did didn't do does"
        " doesn't doing don't down during each few for from further had hadn't has hasn't have"
        " haven't having he her here hers herself him himself his how i i'm i've i'll if in into is"
        " isn't it it's its itself just let's me more most my myself no nor not now of off on once"
        " only or other our ours ourselves out over own same she should shouldn't so some such than"
        " that that's the their theirs them themselves then there there's these they they're this"
        " those through to too under until up very was wasn't we we're were weren't what what's"
        " when where which while who whom why will with won't would wouldn't you you're you've your"
        " yours yourself yourselves also may might must shall us".split()
    ),
}
