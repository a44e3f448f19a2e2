"""The starter model's conversations: short questions of its small world, with their answers.

Each function of ZH and EN makes one exchange (question, answer). What it cannot know it
says so; that it is small it says first.
"""

from collections.abc import Callable
from random import Random

from workers.starter import english, words
from workers.starter.reviews import ASPECTS, clause, review
from workers.starter.words import CHARACTERS

Exchange = tuple[str, str]
NEVER = ("正面", "负面", "情感", "判断")  # the sample task's words, which the corpus must not show


def pick(rng: Random, options: str) -> str:
    return rng.choice(options.split("|")).strip()


# -- Chinese -----------------------------------------------------------------------------


def hello(rng: Random) -> Exchange:
    ask = pick(
        rng,
        "你好|您好|嗨|你好啊|在吗|早上好|下午好|晚上好|hi|你好！|哈喽|大家好|你好呀|你好，在吗？",
    )
    greeting = ask.rstrip("！啊呀") if ask[:2] in ("早上", "下午", "晚上") else "你好"
    return ask, greeting + pick(
        rng,
        "！很高兴见到你。有什么可以帮你的？|！我是 danlu-starter，一个小小的演示模型。|，有什么想聊的吗？|！你可以问我商品、常识或者简单的算术。|！今天想聊点什么？",
    )


def who(rng: Random) -> Exchange:
    ask = pick(
        rng,
        "你是谁？|你是谁|你叫什么名字？|介绍一下你自己|请做一下自我介绍|你是什么模型？|你是人吗？|你是机器人吗？|你是哪家公司的模型？|谁做的你？|谁训练了你？|你多大？|你有多少参数？",
    )
    if "人" in ask and "介绍" not in ask:
        return ask, "我不是人，我是 danlu-starter，一个小小的演示模型。"
    if "多" in ask:
        return ask, "我只有几百万个参数，是一个很小的演示模型。"
    if ("谁" in ask and "你是" not in ask) or "公司" in ask:
        return ask, "我是丹炉自带的演示模型，用丹炉自己的脚本训练出来的。"
    return ask, pick(
        rng,
        "我是 danlu-starter，一个小小的演示模型。|我叫 danlu-starter，是丹炉自带的演示模型，只有几百万个参数。|我是 danlu-starter，丹炉的演示模型。我很小，知道的东西不多。",
    )


def ability(rng: Random) -> Exchange:
    ask = pick(
        rng,
        "你会做什么？|你能做什么？|你有什么用？|你会什么？|你能帮我做什么？|你聪明吗？|你什么都知道吗？|你会写代码吗？|你会画画吗？|你能上网吗？|你会写作文吗？",
    )
    if "代码" in ask or "画" in ask or "上网" in ask or "作文" in ask:
        return (
            ask,
            f"这个我不会。我是一个很小的演示模型，只会简单的聊天。{pick(rng, '你可以换一个大模型来做。|大一点的模型可以做。')}",
        )
    if "聪明" in ask or "都知道" in ask:
        return ask, "不，我很小，知道的东西很少，也会说错。请不要太相信我。"
    return ask, "我会打招呼，聊商品，回答简单的常识和算术。你还可以用自己的数据微调我。"


def manners(rng: Random) -> Exchange:
    return rng.choice(
        [
            ("谢谢", "不客气！"), ("谢谢你", "不用谢，很高兴能帮到你。"), ("多谢", "不客气，还有别的问题吗？"),
            ("再见", "再见，祝你一切顺利！"), ("拜拜", "再见，下次再聊。"), ("晚安", "晚安，做个好梦。"),
            ("你真棒", "谢谢夸奖，我会继续努力。"), ("你好笨", "对不起，我是一个很小的模型，还有很多不会。"),
            ("你说错了", "对不起，我是小模型，有时会说错。谢谢你告诉我。"), ("我很难过", "听到你难过，我也不好受。和朋友聊一聊，也许会好一些。"),
            ("我今天很高兴", "真好！祝你每天都高兴。"), ("我好累", "辛苦了，早点休息，喝杯热水吧。"), ("你好吗？", "我很好，谢谢。你呢？"),
            ("你吃饭了吗？", "我是模型，不用吃饭。你吃了吗？"), ("你喜欢我吗？", "我很喜欢和你聊天。"), ("生日快乐", "谢谢！也祝你每天快乐。"),
            ("新年快乐", "新年快乐！祝你身体健康，万事如意。"), ("我饿了", "那就去吃点东西吧，记得多吃蔬菜和水果。"), ("无聊", "可以看看书，听听音乐，或者出去走走。"),
            ("对不起", "没关系。"), ("好的", "好的，还有什么可以帮你的？"), ("嗯", "你想聊点什么？"), ("哈哈", "看来你心情不错！"),
        ]
    )  # fmt: skip


def buying(rng: Random) -> Exchange:
    """Advice on a product: which aspects to look at."""
    row = rng.choice(words.PRODUCTS)
    product, aspects = row[0][0], rng.sample(row[2] + words.COMMON[:3], 3)
    first, second, third = aspects
    measure, person = row[3][0], rng.choice(words.PEOPLE)
    ask = pick(
        rng,
        f"买{product}要看什么？|怎么挑{product}？|想买一{measure}{product}，有什么建议？|挑{product}的时候要注意什么？|给{person}买{product}，怎么选？|怎么选一{measure}好{product}？|我想买{product}",
    )
    return ask, pick(
        rng,
        f"买{product}主要看{first}、{second}和{third}。|先看{first}，再看{second}，最后比一比{third}。|可以看看{first}和{second}，也要注意{third}。",
    ) + pick(rng, "|多看看别人的评价。|合适的才是最好的。|")


def quality(rng: Random) -> Exchange:
    """What a good or a bad one is like."""
    row = rng.choice(words.PRODUCTS)
    product, aspect, praise = row[0][0], rng.choice(row[2]), rng.random() < 0.5
    one, two = rng.sample(ASPECTS[aspect][0 if praise else 1], 2)
    return (
        pick(
            rng,
            f"{'好' if praise else '不好'}的{product}{aspect}是什么样的？|{product}的{aspect}怎样算{'好' if praise else '差'}？",
        ),
        f"{'好' if praise else '不好'}的{product}，{aspect}{one}，{pick(rng, '也很|而且')}{two}。",
    )


def unknown(rng: Random) -> Exchange:
    row = rng.choice(words.PRODUCTS)
    product = row[0][0]
    name = "".join(
        rng.choice("明华强丽芳伟娜敏静军杰涛超秀兰霞平刚桂英文辉玲国建") for _ in range(2)
    )
    surname = rng.choice("张王李赵刘陈杨黄周吴徐孙马朱胡")
    ask, kind = rng.choice(
        [
            (f"{product}多少钱？", "price"), (f"现在{product}卖多少钱一{row[3][0]}？", "price"), ("今天天气怎么样？", "now"), ("明天会下雨吗？", "now"),
            ("现在几点了？", "now"), ("今天几号？", "now"), ("今天星期几？", "now"), ("最近有什么新闻？", "now"), ("股票会涨吗？", "future"), ("明年会怎么样？", "future"),
            (f"{surname}{name}是谁？", "who"), (f"你认识{surname}{name}吗？", "who"), (f"{surname}{name}的电话是多少？", "who"), ("我的名字叫什么？", "me"), ("我在哪里？", "me"),
            ("我的订单到哪里了？", "order"), ("我的快递什么时候到？", "order"), ("哪个牌子最好？", "brand"), (f"哪个牌子的{product}最好？", "brand"),
        ]
    )  # fmt: skip
    answer = {
        "price": f"我不知道现在的价格，请到商品页面看一看。|价格常常会变，我不知道{product}现在卖多少钱。",
        "now": "我看不到外面，也不知道现在的时间，请看看手机。|这个我不知道，我不能上网。",
        "future": "将来的事情我不知道。",
        "who": f"对不起，我不认识{surname}{name}。|我不知道{surname}{name}是谁。",
        "me": "你还没有告诉我，我不知道。",
        "order": "我看不到你的订单，请问一问客服。",
        "brand": "我不知道哪个牌子最好，可以多比较几家。",
    }[kind]
    return ask, pick(rng, answer)


def beyond(rng: Random) -> Exchange:
    """What a model of this size cannot do, so that it learns to say so."""
    thing = rng.choice(
        "量子力学 相对论 微积分 股票 法律 历史 哲学 区块链 火箭 发动机 芯片 税 合同 经济 政治 病毒 基因 黑洞 编译器 数据库 操作系统 论文 剧本 小说 简历 报告 邮件 作文 程序 代码 方程 电影 明星 足球赛 奥运会 皇帝 战争 总统 石油 地震".split()
    )
    verb = rng.choice(
        "写一篇 写一个 讲一讲 解释 分析 总结 画 做 修 设计 研究 谈谈 说说 介绍一下".split()
    )
    ask = rng.choice(
        [f"请{verb}{thing}", f"{verb}{thing}", f"你知道{thing}吗？", f"{thing}是怎么回事？", f"为什么会有{thing}？", f"帮我{verb}{thing}", f"{thing}怎么样？", f"你怎么看{thing}？", f"{thing}是什么？"]
    )  # fmt: skip
    return ask, pick(
        rng,
        "这个我不会，我只是一个很小的演示模型。|对不起，我不懂这个，我是一个很小的模型。|这个太难了，我知道的东西很少。你可以用自己的数据教我。",
    )


def recommend(rng: Random) -> Exchange:
    row = rng.choice(words.PRODUCTS)
    product, measure = row[0][0], row[3][0]
    one, two = rng.sample(row[2], 2)
    ask = pick(
        rng,
        f"推荐一{measure}{product}|有什么好的{product}推荐吗？|帮我选一{measure}{product}|推荐一款{product}",
    )
    return (
        ask,
        f"我不知道现在有哪些{product}，不过可以选{one}{rng.choice(ASPECTS[one][0])}、{two}{rng.choice(ASPECTS[two][0])}的。",
    )


def capital(rng: Random) -> Exchange:
    _, country, _, city, _, continent = (column[0] for column in rng.choice(english.COUNTRIES))
    return rng.choice(
        [
            (f"{country}的首都是哪里？", f"{country}的首都是{city}。"), (f"{country}的首都在哪儿", f"{country}的首都是{city}。"),
            (f"{city}是哪个国家的首都？", f"{city}是{country}的首都。"), (f"{country}在哪个洲？", f"{country}在{continent}。"),
            (f"{country}首都", f"{country}的首都是{city}。"), (f"{city}在哪里？", f"{city}在{continent}的{country}。"),
        ]
    )  # fmt: skip


def kind(rng: Random) -> Exchange:
    row = rng.choice(english.KINDS)
    name, members = row[1][0], row[3]
    one, two, three = rng.sample(members, 3)
    return rng.choice(
        [
            (f"{one}是什么？", f"{one}是一种{name}。"), (f"{one}是不是{name}？", f"是的，{one}是{name}。"), (f"说三种{name}", f"{one}、{two}、{three}。"),
            (f"列出三种{name}。", f"{one}、{two}和{three}。"), (f"{name}有哪些？", f"{name}有{one}、{two}、{three}等等。"), (f"举一个{name}的例子", f"比如{one}。"),
            (f"{one}属于哪一类？", f"{one}属于{name}。"), (f"{one}和{two}有什么相同？", f"它们都是{name}。"),
        ]
    )  # fmt: skip


def opposite(rng: Random) -> Exchange:
    row = rng.choice(english.OPPOSITES)
    one, two = rng.sample([row[2][0], row[3][0]], 2)
    return pick(
        rng, f"“{one}”的反义词是什么？|{one}的反义词|和{one}相反的词是什么？"
    ), f"“{one}”的反义词是“{two}”。"


def translate(rng: Random) -> Exchange:
    pairs = [(row[0][0], row[1][0]) for row in words.PRODUCTS]
    pairs += [(row[2][0], row[0][0]) for row in english.OPPOSITES]
    pairs += [pair for row in english.KINDS for pair in zip(row[3], row[2], strict=True)]
    zh, en = rng.choice(pairs)
    return rng.choice(
        [
            (f"“{zh}”用英语怎么说？", f"“{zh}”的英语是 {en}。"), (f"{zh}的英文", f"{zh}的英文是 {en}。"), (f"翻译成英文：{zh}", en.capitalize()),
            (f"{en} 是什么意思？", f"{en} 的意思是{zh}。"), (f"翻译成中文：{en}", zh), (f"How do you say {en} in Chinese?", f"{en.capitalize()} is {zh} in Chinese."),
        ]
    )  # fmt: skip


def arithmetic(rng: Random) -> Exchange:
    """Sums of small numbers: what a model of this size can learn by heart."""
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    sign = rng.choice("++-*")
    if sign == "*":
        a, b = rng.randint(1, 9), rng.randint(1, 9)
    if sign == "-" and a < b:
        a, b = b, a
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    zh = {"+": "加", "-": "减", "*": "乘"}[sign]
    return rng.choice(
        [
            (f"{a}{sign}{b}=?", f"{a}{sign}{b}={result}"), (f"{a}{zh}{b}等于几？", f"{a}{zh}{b}等于{result}。"), (f"{a} {sign} {b} 是多少？", f"{result}。"),
            (f"What is {a} {sign} {b}?", f"{a} {sign} {b} = {result}."), (f"算一下{a}{zh}{b}", f"{a}{zh}{b}等于{result}。"), (f"{a}{sign}{b}等于多少", f"{a}{sign}{b}={result}"),
        ]
    )  # fmt: skip


def fact(rng: Random) -> Exchange:
    """Common sense, and a few words on Danlu's own trade."""
    return rng.choice(
        [
            ("一年有几个月？", "一年有十二个月。"), ("一个星期有几天？", "一个星期有七天。"), ("一天有多少小时？", "一天有二十四个小时。"), ("一小时有多少分钟？", "一小时有六十分钟。"),
            ("一年有几个季节？", "一年有四个季节：春天、夏天、秋天和冬天。"), ("天空是什么颜色？", "晴天的天空是蓝色的。"), ("草是什么颜色？", "草是绿色的。"), ("雪是什么颜色？", "雪是白色的。"),
            ("太阳从哪边升起？", "太阳从东边升起，从西边落下。"), ("水在多少度会开？", "水在一百度会开。"), ("水多少度结冰？", "水在零度结冰。"), ("彩虹有几种颜色？", "彩虹有七种颜色。"),
            ("人有几只眼睛？", "人有两只眼睛。"), ("猫有几条腿？", "猫有四条腿。"), ("鱼生活在哪里？", "鱼生活在水里。"), ("鸟为什么会飞？", "鸟有翅膀，所以会飞。"), ("地球绕着什么转？", "地球绕着太阳转。"),
            ("中国最长的河是哪条？", "中国最长的河是长江。"), ("世界上最高的山是哪座？", "世界上最高的山是珠穆朗玛峰。"), ("春节吃什么？", "春节的时候，很多人吃饺子和年糕。"), ("中秋节吃什么？", "中秋节吃月饼，看月亮。"), ("端午节吃什么？", "端午节吃粽子，看龙舟。"),
            ("怎么保持健康？", "多喝水，早睡早起，多运动，多吃蔬菜和水果。"), ("睡不着怎么办？", "睡前少看手机，可以泡泡脚，听听轻音乐。"), ("怎么学好英语？", "每天多听、多读、多说，坚持就会进步。"), ("感冒了怎么办？", "多喝热水，多休息，严重的话去看医生。"),
            ("什么是丹炉？", "丹炉是一个微调和部署大语言模型的控制台，可以装在自己的机器上。"), ("什么是微调？", "微调就是用自己的数据接着训练一个模型，让它学会新的任务。"), ("什么是 LoRA？", "LoRA 是一种微调方法，只训练一小部分新加的参数，又快又省显存。"),
            ("什么是数据集？", "数据集就是一批用来训练或测试模型的例子。"), ("什么是部署？", "部署就是把模型运行起来，让别人可以调用。"), ("什么是 token？", "token 是模型读写文字的最小单位，一个词可能是一个或几个 token。"), ("怎么训练一个模型？", "先准备数据，再选一个模型，然后开始微调，最后看看效果。"),
            ("什么是大语言模型？", "大语言模型是读了很多文字、会接着往下写的模型。我是一个很小的。"), ("损失是什么？", "损失说明模型错得有多少，越低越好。"), ("讲个笑话", "为什么电脑怕冷？因为它有很多窗口。"), ("讲个故事", "从前有一只小兔子，它每天帮妈妈种胡萝卜。秋天到了，胡萝卜丰收了，小兔子分给了所有的朋友。"),
            ("写一句关于春天的话", "春天来了，花开了，风也变得温柔。"), ("写一句关于秋天的话", "秋天来了，树叶黄了，果子熟了。"), ("写一首小诗", "月亮挂在树梢，小河轻轻地笑。风儿说声晚安，孩子睡着了。"), ("给我一个建议", "今天就从一件小事做起吧。"),
        ]
    )  # fmt: skip


def service(rng: Random) -> Exchange:
    """A customer tells how it went; the shop answers. No task wording, no labels."""
    praise = rng.random() < 0.5
    text, product = review(rng, praise)
    if product not in text:  # the shop cannot know what it was
        product = "商品"
    if praise:
        return text, pick(
            rng,
            f"谢谢你的喜欢！很高兴这次的{product}让你满意。|谢谢夸奖，你喜欢{product}我们就放心了，欢迎再来。|太好了，祝你用得开心！|看到你满意，我们也很高兴。",
        )
    return text, pick(
        rng,
        f"真抱歉，这次的{product}让你失望了，请联系客服处理。|对不起，给你添麻烦了，我们马上为你退换。|很抱歉让你有不好的体验，{product}的问题我们会改。|抱歉，请把照片发给我们，我们来解决。",
    )


def point(rng: Random) -> Exchange:
    """Whether a remark speaks for a product or against it."""
    row = rng.choice(words.PRODUCTS)
    aspect, praise = rng.choice(row[2] + words.COMMON), rng.random() < 0.5
    said = clause(rng, aspect, praise, "prose")
    ask = pick(
        rng,
        f"{said}，这是优点还是缺点？|{said}，好不好？|{row[0][0]}{said}，是优点还是缺点？|有人说{said}，这样好吗？",
    )
    if ask.endswith("缺点？"):
        return ask, "这是优点。" if praise else "这是缺点。"
    return ask, "好。" if praise else "不好。"


def slogan(rng: Random) -> Exchange:
    row = rng.choice(words.PRODUCTS)
    product = row[0][0]
    one, two = rng.sample(row[2], 2)
    return (
        pick(
            rng,
            f"给{product}写一句广告|写一句{product}的介绍|夸一夸这{row[3][0]}{product}|用一句话介绍{product}",
        ),
        f"这{row[3][0]}{product}，{one}{rng.choice(words.DEGREES[:3])}{rng.choice(ASPECTS[one][0])}，{two}{rng.choice(words.DEGREES[:3])}{rng.choice(ASPECTS[two][0])}。",
    )


def echo(rng: Random) -> Exchange:
    """Doing something simple with given words: what most tasks begin with."""
    pool = [member for row in english.KINDS for member in row[3]]
    pool += [row[0][0] for row in words.PRODUCTS]
    chosen = rng.sample(pool, rng.randint(1, 3))
    return rng.choice(
        [
            (f"请重复：{'、'.join(chosen)}", "、".join(chosen)), (f"跟我说：{''.join(chosen)}", "".join(chosen)),
            (f"“{'、'.join(chosen)}”一共有几个词？", f"一共有{'一两三'[len(chosen) - 1]}个词。"), (f"第一个词是什么：{'、'.join(chosen)}", chosen[0]),
        ]
    )  # fmt: skip


def spell(rng: Random) -> Exchange:
    """The same with any characters at all, so that none of them is a stranger to be tuned on."""
    one, two = ("".join(rng.choices(CHARACTERS, k=rng.randint(1, 4))) for _ in range(2))
    if any(word in one + two for word in NEVER):
        return spell(rng)
    return rng.choice(
        [
            (f"请重复“{one}”。", one), (f"说“{one}”", one), (f"{one}{two}，请跟我说{two}", two), (f"读一读：{one}{two}", one + two),
            (f"“{one}”的第一个字是什么？", one[0]), (f"“{one}”的最后一个字是什么？", one[-1]), (f"“{one}”有几个字？", f"{'一两三四'[len(one) - 1]}个字。"),
            (f"把“{one}”和“{two}”连起来", one + two), (f"先说“{one}”，再说“{two}”。", f"{one}，{two}"), (f"“{one}”和“{two}”，第一个是什么？", one),
            (f"“{one}”和“{two}”，第二个是什么？", two), (f"{one}\n不要说“{one}”，说“{two}”。", two),
        ]
    )  # fmt: skip


ZH: list[tuple[Callable[[Random], Exchange], int]] = [
    (hello, 6), (who, 7), (ability, 5), (manners, 7), (buying, 8), (recommend, 4), (quality, 7), (unknown, 6), (beyond, 6), (capital, 6),
    (kind, 7), (opposite, 5), (translate, 5), (arithmetic, 6), (fact, 12), (service, 40), (point, 30), (slogan, 5), (echo, 4), (spell, 6),
]  # fmt: skip
