import sys

print("torch" in sys.modules, sys.argv[1:])
