"""The tutorial's second pool program: only the line that imports is changed.

`apply_async` does not wait; the callback gets what each task returned, as soon as it has ended.
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
    return "完成任务:{}用时{},进程id:{}".format(task_name, (end - start), os.getpid())


container = []


def callback_func(n):
    container.append(n)


if __name__ == "__main__":
    pool = Pool(5)
    tasks = ["听音乐", "吃饭", "洗衣服", "打游戏", "散步", "看孩子", "做饭"]
    for task1 in tasks:
        # 调用回调函数,每当一个任务结束时(即函数task执行完)return的内容给callback_func中的n
        pool.apply_async(task, args=(task1,), callback=callback_func)
    pool.close()  # 添加任务结束
    pool.join()  # 阻隔主线程执行,需先执行完pool里的全部任务,才能执行主线程的后续程序
    for c in container:
        print(c)
    print("over!")
