from mmim.encoders.joint import JointEncoder
from mmim.interop.brief import brief, lines
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from tests.toy import TOY


def test_sizes_and_what_is_not_at_its_default_are_said():
    encoder = JointEncoder(width=8, global_tokens=1)
    assert brief(encoder) == "joint(width=8, depth=12, heads=12, global_tokens=1)"


def test_a_small_part_is_said_whole():
    assert brief(Ratio(0.75)) == "ratio(ratio=0.75, rounding='kept_down')"
    assert brief(RandomMasking()) == "random"


def test_a_method_is_a_line_for_each_part():
    assert [line.split()[0] for line in lines(TOY)] == ["modality", "masking", "budget", "encoder", "decoder", "task"]
