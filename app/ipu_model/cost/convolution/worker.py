"""Search the plans of requests on standard input, one a line of JSON, for another process."""

import sys

from app.ipu_model.cost.convolution.planner import search
from app.ipu_model.cost.convolution.text import plan_text, request_of

if __name__ == "__main__":
    for line in sys.stdin:
        print(plan_text(search(*request_of(line))))
