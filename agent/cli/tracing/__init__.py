"""``podwire trace``: where one packet goes, from the rules that are installed, and from the kernel itself.

```
words -> places: who is meant (API)      node: rules, counters, addresses, memory (kernel)
              `-> Packet -> rules.trace -> rules.explain -> render: sentences, JSON
                                `- predicted paths -- live: the same of a real packet, told by ``kernel``
```
``places`` resolves SOURCE and TARGET, ``node`` reads the node's namespace, ``kernel`` listens to netfilter's own trace,
``probe`` sends the packet, ``live`` compares.
"""
