"""The tutorial's first pool program: only the line that imports is changed.

`apply` waits for each task, so that they run one after the other.
"""

# ruff: noqa: UP032 - the tutorial's own words

import os
import time
from random import random

from nearfar import Pool


def task(task_name):
    print("开始做任务啦", task_name)
    start = time.time()
    time.sleep(random() * 2)
    end = time.time()
    print("完成任务:{}用时{},进程id:{}".format(task_name, (end - start), os.getpid()))


if __name__ == "__main__":
    pool = Pool(5)
    tasks = ["听音乐", "吃饭", "洗衣服", "打游戏", "散步", "看孩子", "做饭"]
    for task1 in tasks:
        pool.apply(task, args=(task1,))
    pool.close()  # 添加任务结束
    pool.join()  # 阻隔主线程执行,需先执行完pool里的全部任务,才能执行主线程的后续程序
    print("over!")
