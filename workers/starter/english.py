"""English words of the starter model. Same form as words.py."""

from workers.starter.words import table

# aspect | praise | blame
ASPECTS = table("""
screen | bright sharp clear vivid smooth | dim blurry yellow scratched flickering
battery | strong reliable long-lasting solid | weak poor unreliable useless
sound | clear rich warm clean | noisy flat harsh thin
quality | great solid excellent reliable good | poor terrible cheap awful bad
price | fair low reasonable great | high unfair ridiculous unreasonable
delivery | fast quick on·time careful | slow late careless delayed
packaging | neat safe beautiful careful | broken torn dirty careless
service | friendly helpful patient kind | rude slow cold unhelpful
size | right perfect handy | wrong strange off
taste | fresh sweet rich lovely delicious | stale bitter bland strange awful
fabric | soft warm comfortable light | rough itchy thin stiff
design | pretty simple elegant clever | ugly clumsy dull confusing
smell | fresh light pleasant | strong strange unpleasant
setup | easy simple quick | hard confusing slow
""")
COMMON = "quality price delivery packaging service design".split()
ASPECT_NAMES = {
    "屏幕": "screen", "续航": "battery", "音质": "sound", "尺码": "size", "大小": "size",
    "味道": "taste", "面料": "fabric", "气味": "smell", "安装": "setup", "操作": "setup",
}  # fmt: skip
DEGREES = "very really so quite pretty truly".split()
PRAISE_VERDICTS = table("""
I·would·buy·it·again. Highly·recommended. Worth·every·penny. My·family·loves·it. I·am·very·happy·with·it. It·works·just·as·promised. Five·stars·from·me. It·made·my·day.
""")[0][0]
BLAME_VERDICTS = table("""
I·will·not·buy·it·again. Not·recommended. A·waste·of·money. I·sent·it·back. I·am·very·disappointed. It·broke·after·two·days. I·want·my·money·back. Please·stay·away·from·it.
""")[0][0]

# country | 国家 | capital | 首都 | continent | 洲
COUNTRIES = table("""
China | 中国 | Beijing | 北京 | Asia | 亚洲
Japan | 日本 | Tokyo | 东京 | Asia | 亚洲
France | 法国 | Paris | 巴黎 | Europe | 欧洲
Germany | 德国 | Berlin | 柏林 | Europe | 欧洲
Italy | 意大利 | Rome | 罗马 | Europe | 欧洲
Spain | 西班牙 | Madrid | 马德里 | Europe | 欧洲
the·United·Kingdom | 英国 | London | 伦敦 | Europe | 欧洲
Russia | 俄罗斯 | Moscow | 莫斯科 | Europe | 欧洲
Egypt | 埃及 | Cairo | 开罗 | Africa | 非洲
Kenya | 肯尼亚 | Nairobi | 内罗毕 | Africa | 非洲
the·United·States | 美国 | Washington | 华盛顿 | North·America | 北美洲
Canada | 加拿大 | Ottawa | 渥太华 | North·America | 北美洲
Mexico | 墨西哥 | Mexico·City | 墨西哥城 | North·America | 北美洲
Brazil | 巴西 | Brasilia | 巴西利亚 | South·America | 南美洲
Australia | 澳大利亚 | Canberra | 堪培拉 | Oceania | 大洋洲
India | 印度 | New·Delhi | 新德里 | Asia | 亚洲
Thailand | 泰国 | Bangkok | 曼谷 | Asia | 亚洲
Korea | 韩国 | Seoul | 首尔 | Asia | 亚洲
Greece | 希腊 | Athens | 雅典 | Europe | 欧洲
Norway | 挪威 | Oslo | 奥斯陆 | Europe | 欧洲
""")

# kind | 类 | members, English | members, Chinese (same order)
KINDS = table("""
fruit | 水果 | apple banana orange grape pear peach watermelon strawberry | 苹果 香蕉 橙子 葡萄 梨 桃子 西瓜 草莓
vegetable | 蔬菜 | carrot potato tomato cabbage cucumber onion spinach | 胡萝卜 土豆 西红柿 白菜 黄瓜 洋葱 菠菜
animal | 动物 | cat dog horse rabbit tiger panda elephant monkey | 猫 狗 马 兔子 老虎 熊猫 大象 猴子
bird | 鸟 | eagle owl swan parrot sparrow crane | 老鹰 猫头鹰 天鹅 鹦鹉 麻雀 鹤
colour | 颜色 | red blue green yellow white black purple | 红色 蓝色 绿色 黄色 白色 黑色 紫色
season | 季节 | spring summer autumn winter | 春天 夏天 秋天 冬天
sport | 运动 | football basketball swimming running tennis badminton | 足球 篮球 游泳 跑步 网球 羽毛球
drink | 饮料 | water tea coffee juice milk | 水 茶 咖啡 果汁 牛奶
tool | 工具 | hammer saw screwdriver ruler scissors | 锤子 锯子 螺丝刀 尺子 剪刀
vehicle | 交通工具 | car bus train plane ship bicycle | 汽车 公交车 火车 飞机 轮船 自行车
planet | 行星 | Mercury Venus Earth Mars Jupiter Saturn | 水星 金星 地球 火星 木星 土星
instrument | 乐器 | piano violin guitar drum flute | 钢琴 小提琴 吉他 鼓 笛子
job | 职业 | doctor teacher farmer cook driver engineer | 医生 老师 农民 厨师 司机 工程师
family·member | 家人 | mother father sister brother grandmother | 妈妈 爸爸 姐姐 哥哥 奶奶
""")

# word | opposite | 词 | 反义词
OPPOSITES = table("""
big | small | 大 | 小
long | short | 长 | 短
hot | cold | 热 | 冷
fast | slow | 快 | 慢
high | low | 高 | 低
new | old | 新 | 旧
light | heavy | 轻 | 重
hard | soft | 硬 | 软
early | late | 早 | 晚
wet | dry | 湿 | 干
open | closed | 开 | 关
happy | sad | 高兴 | 难过
near | far | 近 | 远
many | few | 多 | 少
strong | weak | 强 | 弱
clean | dirty | 干净 | 脏
bright | dark | 亮 | 暗
full | empty | 满 | 空
easy | difficult | 容易 | 困难
warm | cool | 温暖 | 凉爽
quiet | noisy | 安静 | 吵闹
left | right | 左 | 右
front | back | 前 | 后
inside | outside | 里 | 外
rich | poor | 富 | 穷
thick | thin | 厚 | 薄
cheap | expensive | 便宜 | 贵
""")
