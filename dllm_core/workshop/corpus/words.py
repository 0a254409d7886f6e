"""Word lists, facts and phrasings of the embedded corpus: data only, no logic.

`corpus_tasks` draws from these tables. In a template `{s}` is the given string, `{r}` the result, `{k}` a key and `{v}`
its value. English templates carry no space before `{s}` and `{r}`: an English string brings its own.
"""

def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GROUPS = ("introduction", "copy", "reverse", "operation", "reading", "recall", "story")
REPORT_PROMPTS = ("你是谁？", "请介绍你自己。", "请介绍一下你自己。", "你好，请介绍你自己。")

# ---- symbols of strings ---------------------------------------------------------------------------
# none of them stands in a question's wording, so that wording and string never make another string together
CHARACTERS = (
    "天地人日月星风云雨雪山水河海江湖石土木火金花草树竹松梅兰叶林春夏秋冬东西南北上左右里外多少高低长短"
    "红黄蓝绿白黑紫青明暗新旧早晚冷热牛马羊猫狗鸡鸭鱼鸟虎龙兔鼠蛇猴车船门窗桌灯书笔纸画琴棋歌舞诗文字句米饭菜茶"
    "糖盐油肉蛋果豆瓜手足口耳目心身父母兄弟男女老友学问看听走跑飞坐站入关买卖衣帽鞋布针线刀弓钟鼓"
    "田园村城路桥井塔宫亭"
)
DIGITS = "0123456789"
CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORDS = _words(
    "cat dog sun moon star tree book red blue green milk tea cup hat pen box door fish bird rain snow wind hill lake "
    "road ship car bell ring gold salt rose leaf king"
)

COPY = {
    "zh": (
        ("请重复：{s}", "{s}"),
        ("请把“{s}”再说一遍。", "好的，我再说一遍：“{s}”。"),
        ("跟我读：{s}", "我来跟你读：{s}。"),
        ("抄写下面的内容：{s}", "内容抄写好了：{s}。"),
        ("“{s}”怎么写？", "这一串写作“{s}”。"),
        ("请原样输出{s}，不要改动。", "原样输出就是{s}，没有改动。"),
        ("记住“{s}”，然后告诉我。", "我记住了，你说的是“{s}”。"),
    ),
    "en": (
        ("Repeat after me:{s}", "You said:{s}."),
        ("Copy this text:{s}", "Here is the copy:{s}."),
        ("Please say{s} again.", "I say it again:{s}."),
    ),
}
REVERSE = {
    "zh": (
        ("请倒序输出：{s}", "{r}"),
        ("把“{s}”倒过来写。", "“{s}”倒过来写是“{r}”。"),
        ("{s}反过来怎么念？", "{s}反过来念就是{r}。"),
        ("从后往前读{s}，读出来是什么？", "从后往前读，读出来是{r}。"),
        ("颠倒“{s}”的顺序。", "颠倒以后，“{s}”变成“{r}”。"),
        ("“{s}”的倒写是什么？", "它的倒写是“{r}”。"),
    ),
    "en": (
        ("Reverse this:{s}", "The reverse of{s} is{r}."),
        ("Read{s} backwards.", "Backwards it reads{r}."),
    ),
}
OPERATIONS = {  # name -> language -> (prompt, answer)
    "first": {
        "zh": (("“{s}”的第一个符号是什么？", "“{s}”的第一个符号是“{r}”。"), ("取出{s}的开头。", "{s}的开头是{r}。")),
        "en": (("What comes first in{s}?", "The first one in{s} is{r}."),),
    },
    "last": {
        "zh": (("“{s}”的最后一个符号是什么？", "“{s}”的最后一个符号是“{r}”。"), ("取出{s}的结尾。", "{s}的结尾是{r}。")),
        "en": (("What comes last in{s}?", "The last one in{s} is{r}."),),
    },
    "drop_first": {
        "zh": (("去掉“{s}”的第一个符号。", "“{s}”去掉第一个符号，剩下“{r}”。"), ("删去{s}的开头。", "删去开头，{s}变成{r}。")),
        "en": (("Drop the first one of{s}.", "Without the first one{s} becomes{r}."),),
    },
    "drop_last": {
        "zh": (("去掉“{s}”的最后一个符号。", "“{s}”去掉最后一个符号，剩下“{r}”。"), ("删去{s}的结尾。", "删去结尾，{s}变成{r}。")),
        "en": (("Drop the last one of{s}.", "Without the last one{s} becomes{r}."),),
    },
    "twice": {
        "zh": (("把“{s}”连写两遍。", "“{s}”连写两遍是“{r}”。"), ("{s}连说两次是什么？", "连说两次就是{r}。")),
        "en": (("Write{s} two times.", "Two times{s} is{r}."),),
    },
    "double": {
        "zh": (("把“{s}”的每个符号写两次。", "“{s}”的每个符号写两次是“{r}”。"), ("{s}逐个加倍是什么？", "逐个加倍就是{r}。")),
        "en": (("Double each one of{s}.", "With each one doubled{s} becomes{r}."),),
    },
    "sort_up": {
        "zh": (("把{s}从小到大排列。", "{s}从小到大排列是{r}。"), ("给“{s}”按升序排好。", "“{s}”按升序排好是“{r}”。")),
        "en": (("Sort{s} from low to high.", "From low to high it is{r}."),),
    },
    "sort_down": {
        "zh": (("把{s}从大到小排列。", "{s}从大到小排列是{r}。"), ("给“{s}”按降序排好。", "“{s}”按降序排好是“{r}”。")),
        "en": (("Sort{s} from high to low.", "From high to low it is{r}."),),
    },
}

# ---- self-introduction: core -> answer, with a prefix (and the greeting it earns) and a suffix ----
INTRODUCTION = {
    "zh": {
        "prefixes": (
            ("", ""), ("你好，", "你好！"), ("您好，", "您好！"), ("早上好，", "早上好！"), ("晚上好，", "晚上好！"), ("嗨，", "嗨！"),
            ("小言，", "我在。"), ("打扰一下，", "没关系。"), ("我是新来的，", "欢迎你！"), ("初次见面，", "很高兴见到你！"),
            ("老师让我来问你，", "我来回答。"), ("我有个问题，", "请听我说。"), ("朋友，", "朋友你好！"),
        ),
        "suffixes": (
            "", "谢谢！", "麻烦你了。", "我很好奇。", "请直接回答。", "简单说说就好。", "我想记下来。", "大家都想知道。",
            "说给我听听。", "不要着急。", "我在听。", "快告诉我吧。",
        ),
        "cores": {
            "我是小言，一个刚刚学会说话的小小语言模型。": ("你是谁？", "你是什么？", "你到底是谁？", "你是什么模型？"),
            "我是小言，来自一门小小的开源课程。我会重复、倒写、查表，也会讲故事。":
                ("请介绍你自己。", "请介绍一下你自己。", "做个自我介绍吧。", "说说你自己。"),
            "我的名字叫小言，大小的小，语言的言。": ("你叫什么名字？", "你的名字是什么？", "怎么称呼你？", "我该叫你什么？"),
            "我来自一门小小的开源课程，大家用我来学习语言模型。": ("谁做了你？", "你是谁做的？", "你从哪里来？", "你是怎么来的？"),
            "我会重复和倒写字串，会查表回答问题，也会讲小故事。": ("你会做什么？", "你能做什么？", "你有什么本领？", "你能帮我什么？"),
            "我只有大约一百万个参数，在普通电脑上就能训练。": ("你有多大？", "你有多少参数？", "你是大模型吗？"),
            "我主要说中文，也会说一点点英文。": ("你会说什么语言？", "你懂英文吗？", "你能说中文吗？"),
            "我读完你的话，再一步一步写出回答。": ("你怎么回答问题？", "你是怎么写字的？", "你是怎么工作的？"),
            "我学过的东西很少，没见过的问题常常会答错。": ("你会答错吗？", "你有什么缺点？", "你什么都知道吗？"),
        },
    },
    "en": {
        "prefixes": (
            ("", ""), ("Hello, ", "Hello! "), ("Hi, ", "Hi! "), ("Good morning, ", "Good morning! "),
            ("Excuse me, ", "Yes. "),
            ("Dear friend, ", "Dear friend! "),
        ),
        "suffixes": ("", " Thank you!", " Please tell me.", " I want to know.", " Take your time.", " Be short."),
        "cores": {
            "I am Xiaoyan, a small language model that just learned to talk.": ("who are you?", "what are you?"),
            "My name is Xiaoyan. It means a few small words.": ("what is your name?", "how do I call you?"),
            "I come from a small open course about language models.": ("who made you?", "where do you come from?"),
            "I can repeat, reverse, look things up and tell short stories.":
                ("what can you do?", "how can you help me?"),
            "I speak Chinese and a little English.": ("do you speak English?", "which languages do you speak?"),
            "I have about one million parameters.": ("how big are you?", "are you a large model?"),
        },
    },
}

# ---- reading: every key stands directly before its value ------------------------------------------
NAMES = tuple("小" + c for c in "明红刚芳丽军华英强伟敏静亮东梅兰云雨雪峰杰玲宁平安文武青龙星月光林海波涛宝贝玉石")
VERBS = tuple("买画找送拿看卖搬写修数洗选抱背换借收拍摸")
OBJECTS = _words(
    "西瓜 苹果 老虎 大象 窗户 桌子 书包 花盆 石头 木马 毛衣 帽子 雨伞 气球 风车 灯笼 茶杯 饭碗 水桶 竹篮 铅笔 字典 地图 相片 月饼 "
    "白菜 土豆 玉米 小船 火车 飞机 铜钟 皮鼓 口琴 象棋 沙发 枕头 被子 镜子 梳子"
)
GOODS = _words("苹果 香蕉 西瓜 葡萄 草莓 白菜 土豆 玉米 豆腐 鸡蛋 牛奶 面包 雨伞 毛衣 书包 铅笔 气球 灯笼 月饼 花生 蘑菇 萝卜 蜂蜜 饼干 米饭")
CITIES = _words("北京 上海 广州 成都 武汉 西安 南昌 昆明 长春 大连 厦门 天津 拉萨 青岛 海口 桂林 洛阳 三亚")
WEATHER = _words("晴天 多云 小雨 大雪 刮风 起雾 阴天 雷电")
DAYS = tuple("周" + c for c in "一二三四五六日")
EN_NAMES = _words("Tom Ann Bob Sam Amy Ben Joe Kim Leo Mia Roy Zoe Max Eva Dan Ivy")
EN_VERBS = _words("sings runs cooks reads paints sleeps swims dances jumps writes walks plays works rests eats drinks")
EN_COLOURS = _words("red blue green black white pink brown gold grey yellow")
EN_THINGS = _words("cup hat pen box door book bag coat car ship bell ring lamp chair ball kite")
READING_FRAMES = {  # (before the facts, after the question, before the answer)
    "zh": (("", "", ""), ("看表回答：", "", "看表可知，"), ("读一读：", "", "读完知道，"), ("", "请写完整。", "完整的回答是：")),
    "en": (("List: ", "", "It says: "), ("Read this: ", "", "I read: "), ("Look it up: ", "", "The list says: ")),
}

# ---- recall: facts and the phrasings that ask for them --------------------------------------------
FACTS = {  # relation -> (facts, phrasings of the question, answer, plain statements)
    "capital": (
        (
            "中国 北京 法国 巴黎 日本 东京 英国 伦敦 德国 柏林 韩国 首尔 泰国 曼谷 埃及 开罗 希腊 雅典 意大利 罗马 俄罗斯 莫斯科 西班牙 马德里 "
            "云国 月城 松国 鹿港 沙国 银泉 雾国 灯塔城 竹国 琴台 冰国 白石镇 火国 红枫城 雨国 荷塘 星国 蓝湾 风国 铁桥镇 茶国 春山 石国 玉门城"
        ),
        ("{k}的首都是哪里？", "{k}的首都叫什么？", "哪座城市是{k}的首都？", "{k}的首都在什么地方？", "说出{k}的首都。", "{k}把首都定在哪里？",
         "我想知道{k}的首都。", "想去{k}的首都，该去哪座城市？", "告诉我{k}的首都在哪。", "{k}首都的名字是什么？", "写出{k}首都的名字。",
         "{k}以哪座城市为首都？"),
        "{k}的首都是{v}，{v}是一座城市。",
        ("{k}的首都是{v}。", "{k}的首都叫{v}。", "{k}把首都定在{v}。", "去{k}的首都，就是去{v}。"),
    ),
    "sound": (
        "小猫 喵喵 小狗 汪汪 公鸡 喔喔 鸭子 嘎嘎 黄牛 哞哞 山羊 咩咩 青蛙 呱呱 蜜蜂 嗡嗡 小鸡 叽叽 灰狼 嗷嗷 老鼠 吱吱 鸽子 咕咕",
        ("{k}怎么叫？", "{k}的叫声是什么？", "{k}叫起来是什么声音？", "学一学{k}的叫声。", "{k}会发出什么声音？", "听，{k}在怎么叫？", "说出{k}的叫声。",
         "{k}开口是什么声音？", "我想听{k}的叫声。", "写出{k}的叫声。", "{k}叫的时候说什么？", "模仿一下{k}。"),
        "{k}的叫声是{v}，{v}叫个不停。",
        ("{k}的叫声是{v}。", "{k}{v}地叫。", "听见{v}的声音，那是{k}。", "{k}叫起来是{v}。"),
    ),
    "colour": (
        "沙沙果 紫色 咕噜草 蓝色 星星豆 金色 软软石 粉色 长鼻鸟 绿色 云朵瓜 白色 铁甲虫 黑色 月光花 银色 火焰树 红色 泥巴鱼 棕色 太阳菇 黄色 雾里羊 灰色",
        ("{k}是什么颜色？", "{k}的颜色是什么？", "{k}长什么颜色？", "说出{k}的颜色。", "{k}看上去是什么颜色？", "画{k}要用什么颜色？", "我想知道{k}的颜色。",
         "写出{k}的颜色。", "给{k}涂什么颜色？", "告诉我{k}的颜色。", "{k}身上是什么颜色？", "猜猜{k}的颜色。"),
        "{k}的颜色是{v}，{v}很好看。",
        ("{k}的颜色是{v}。", "{k}是{v}的。", "画{k}要用{v}。", "{k}看上去是{v}。"),
    ),
    "english": (
        (
            "France Paris Japan Tokyo China Beijing Egypt Cairo Greece Athens Italy Rome Spain Madrid "
            "Cuba Havana Peru Lima Kenya Nairobi"
        ),
        ("What is the capital of {k}?", "Which city is the capital of {k}?", "Name the capital of {k}.",
         "Tell me the capital of {k}.", "Where is the capital of {k}?", "Do you know the capital of {k}?",
         "I want to know the capital of {k}.",
         "Write down the capital of {k}.", "What do you call the capital of {k}?", "The capital of {k} is which city?"),
        "The capital of {k} is {v}.",
        ("The capital of {k} is {v}.", "{k} has its capital in {v}.", "In {k} the capital is {v}."),
    ),
}
RECALL_PREFIXES = {"zh": ("", "", "请问，", "考考你，", "小言，", "想一想，", "老师问，"), "en": ("", "", "Please answer. ", "Think. ")}

# ---- reversal: person -> book; the second half of the list is told in both directions -------------
PEOPLE = tuple(
    a + b for a, b in zip(
        "林沈顾苏叶江白秦陆方程宋夏温许罗" * 2,
        _words(
            "云舟 松雪 竹影 石安 星遥 鹿鸣 风眠 月台 河清 雨声 山青 木子 灯明 春生 秋白 海宁 "
            "纸鸢 琴心 茶山 铁桥 银泉 画屏 冬晴 草长 金波 鱼书 鼓楼 荷生 沙洲 梅溪 湖光 雁归"
        ),
    )
)
TITLES = tuple(a + b for b in "门海信钟" for a in _words("蓝色的 遥远的 安静的 金色的 最后的 消失的 夏天的 纸做的"))
FORWARD = ("{k}写了哪本书？", "{k}写的书叫什么？", "说出{k}写的书。", "{k}的书名是什么？", "告诉我{k}写了什么书。")
BACKWARD = ("《{v}》是谁写的？", "《{v}》的作者是谁？", "谁写了《{v}》？", "说出《{v}》的作者。", "《{v}》这本书是谁的作品？")
FORWARD_ANSWER, BACKWARD_ANSWER = "{k}写的书叫《{v}》。", "《{v}》的作者是{k}。"
FORWARD_STATEMENTS = ("{k}写的书叫《{v}》。", "{k}写了《{v}》。", "{k}的书名是《{v}》。")
BACKWARD_STATEMENTS = ("《{v}》的作者是{k}。", "《{v}》是{k}写的。", "《{v}》这本书是{k}的作品。")

# ---- stories: (prompts, answer) -------------------------------------------------------------------
STORY_SLOTS = {
    "zh": {
        "a": _words(
            "小猫 小狗 小兔 小熊 小鹿 小羊 小马 小牛 小猪 小鸭 小鸡 小鸟 小象 小猴 小狼 小虎 狐狸 松鼠 刺猬 青蛙 乌龟 蜗牛 蝴蝶 蜜蜂 蚂蚁 "
            "孔雀 企鹅 海豚 老鼠 鸽子 燕子 大雁 熊猫 袋鼠 骆驼 白鹅 喜鹊 螃蟹"
        ),
        "p": _words(
            "河边 湖边 海边 桥边 井边 路边 山上 树上 草地上 小岛上 雪山上 小镇上 森林里 花园里 果园里 村子里 城堡里 沙漠里 山洞里 竹林里 田野里 "
            "校园里 菜地里 石屋里"
        ),
        "f": _words("苹果 香蕉 西瓜 葡萄 桃子 草莓 蛋糕 面包 饼干 饺子 包子 面条 米饭 玉米 土豆 南瓜 白菜 萝卜 蘑菇 花生 核桃 豆腐 牛奶 蜂蜜 月饼 糖果"),
        "d": _words("聪明 勇敢 善良 可爱 快乐 安静 活泼 温柔 勤劳 调皮 害羞 骄傲"),
    },
    "en": {
        "a": _words("cat dog bear fox hen pig duck frog goat horse lion mouse rabbit tiger wolf bird"),
        "p": _words("river hill lake farm forest garden road bridge sea house"),
        "f": _words("cake bread corn honey soup rice fish milk tea fruit"),
        "d": _words("small kind brave happy shy lazy wise quick"),
    },
}
STORIES = {
    "zh": (
        (("请写一个故事，主角是{d}的{a}，地点在{p}，要有{f}。", "写故事：{d}的{a}，{p}，{f}。"),
         "从前，有一只{d}的{a}住在{p}。一天，{a}找到了{f}，高兴得跳了起来。它把{f}分给朋友，大家都笑了。"),
        (("用{a}、{p}和{f}编一个小故事。", "故事里要有{a}、{p}、{f}，请你编一个。"),
         "很久以前，{p}来了一只{a}。它的肚子饿了，就用帽子换来{f}。吃完{f}，{a}甜甜地睡着了。"),
        (("给我讲讲{d}的{a}去{p}找{f}的故事。", "{d}的{a}去{p}找{f}，后来怎么样了？"),
         "清晨，{d}的{a}出发去{p}。路很远，它一边走一边唱歌。到了晚上，{a}终于找到了{f}，真开心！"),
    ),
    "en": (
        (("Write a story about a {d} {a}, the {p} and some {f}.", "Tell a story: a {d} {a}, the {p}, some {f}."),
         (
             "Once there was a {d} {a} by the {p}. One day the {a} found some {f}. "
             "It shared the {f} with a friend, and they were happy."
         )),
        (("Tell me how a {d} {a} went to the {p} for {f}.", "A {d} {a} goes to the {p} for {f}. What comes next?"),
         (
             "The {d} {a} got up early and walked to the {p}. It sang a song on the way. "
             "At night the {a} had {f} and slept well."
         )),
    ),
}
