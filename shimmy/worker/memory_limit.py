"""Whose turn it is with this process's memory limit. A rendering lowers it for all threads (chat/bounds.py);
meanwhile no context is made (llama/zeroing.py), which may take far more at once than is allowed then.
"""

import threading

turn = threading.Lock()
