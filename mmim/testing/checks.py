"""The list of all checks."""

from mmim.testing import masking, outputs, reading, tokens, training
from mmim.testing.running import Check

MODALITY_CHECKS: tuple[Check, ...] = (
    reading.reading_depends_on_the_draw_alone,
    reading.the_evaluation_view_is_always_the_same,
    reading.another_draw_gives_another_view,
    reading.an_absent_sample_stands_among_others,
    reading.a_file_that_is_not_there_is_left_out,
    reading.a_damaged_file_is_read_or_refused,
    reading.reading_does_not_depend_on_where_the_file_lies,
    reading.a_worker_reads_the_same,
    reading.its_fields_survive_a_recipe_file,
    tokens.tokens_have_the_declared_shapes,
    tokens.untokenize_is_the_inverse_of_the_cut,
    tokens.tokenizing_leaves_its_input_alone,
    masking.masks_keep_whole_groups_and_the_promised_count,
    masking.visible_and_masked_partition_the_tokens,
    masking.a_sample_gets_the_same_mask_in_any_batch,
    masking.hidden_content_stays_hidden,
    masking.hidden_content_stays_hidden_behind_mask_tokens,
    masking.hidden_content_stays_hidden_in_training,
    training.targets_fit_their_predictions,
    training.targets_are_of_order_one,
    training.parts_of_a_batch_add_up_to_the_whole,
    training.two_ranks_agree,
    training.absent_samples_count_for_nothing,
    training.a_batch_without_anybody_is_harmless,
    training.a_fully_visible_batch_is_harmless,
    training.a_fully_hidden_sample_is_harmless,
    training.one_visible_group_is_enough,
    training.every_parameter_gets_a_gradient,
    training.one_batch_can_be_learnt,
    training.bfloat16_is_finite_and_near,
    outputs.a_reconstruction_is_a_picture,
    outputs.features_are_finite_vectors,
    outputs.an_embedding_does_not_depend_on_its_neighbours,
)
"""Every property that any modality must have, `check(modality, files)`."""
