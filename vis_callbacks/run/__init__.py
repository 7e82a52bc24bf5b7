"""What the callbacks of one Trainer share.

``hooks`` calls ``run``, which holds the moments of a training in their order. Each other module holds one thing that a
run is made of: its members, their inputs, what they may cost, the events, the output.
"""
