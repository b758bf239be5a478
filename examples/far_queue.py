"""The same program over ZeroMQ: `near_queue.py` with an address, and no other change.

The parent hosts the queue; each child connects to it when it first puts or gets. ``ipc:///tmp/queue`` as an
argument takes that address instead.
"""

# ruff: noqa: E722, UP032 - the tutorial's own words

import sys
from multiprocessing import Process
from time import sleep

from nearfar import Queue


def download(q):
    images = ["girl.jpg", "boy.jpg", "man.jpg"]
    for image in images:
        print("正在下载:", image)
        sleep(0.5)
        # 在两个进程间创建一个队列,q.put()表示向队列中放元素
        q.put(image)


def getfile(q):
    while True:
        try:
            # q.get()表示从队列中取元素
            file = q.get(timeout=5)
            print("{}保存成功".format(file))
        except:
            print("全部保存完毕!")
            break


if __name__ == "__main__":
    # 设置队列中最多存放5个元素
    address = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:*"
    q = Queue(5, address)
    p1 = Process(target=download, args=(q,))
    p2 = Process(target=getfile, args=(q,))
    p1.start()
    # p1设置阻隔,要等p1进程执行完了才执行后续程序
    p1.join()
    p2.start()
    p2.join()
    print("over!")
