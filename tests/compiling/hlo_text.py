"""A small optimized module as XLA prints it, with every construct that the parser reads."""

MODULE = """HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias), \
{1}: (2, {}, must-alias) }, num_partitions=4

FileNames
1 "/checkout/vtadl_jax/networks/vit.py"
2 "/lib/flax/linen/linear.py"

FunctionNames
1 "PatchViT.__call__"
2 "Dense.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=93 end_line=93 column=1 end_column=9}
2 {file_name_id=2 function_name_id=2 line=7 end_line=7 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p0: bf16[8,128]) -> bf16[8,128] {
  %p0 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[128,128]{1,0:T(8,128)(2,1)} constant({...})
  %dot = f32[8,128]{1,0:T(8,128)} convolution(%p0, %w), dim_labels=bf_io->bf, \
metadata={op_name="jit(step)/transpose(jvp(Net))/encoder/while/body/blocks/qkv/dot_general" \
stack_frame_id=2}
  ROOT %down = bf16[8,128]{1,0:T(8,128)(2,1)} convert(%dot), \
metadata={op_name="jit(step)/convert_element_type"}
}

%body (p: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %p = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p), index=1
  %fusion.1 = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%x), kind=kOutput, calls=%fused, \
metadata={op_name="jit(step)/convert_element_type"}, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one), backend_config={"estimated_cycles":"10"}
  %all-reduce.1 = bf16[8,128]{1,0:T(8,128)(2,1)} all-reduce(%fusion.1), channel_id=2, \
replica_groups=mesh['axis_0'=4,'axis_1'=1] {'axis_0','axis_1'}, to_apply=%add, \
metadata={op_name="jit(step)/transpose(jvp(Net))/encoder/while/body/blocks/qkv/dot_general" \
stack_frame_id=1}
  ROOT %t = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%next, %all-reduce.1)
}

%begin (p2: f32[16,8]) -> (f32[16,8], f32[64,8]) {
  %p2 = f32[16,8]{1,0} parameter(0)
  %weights = f32[64,8]{1,0} all-gather(%p2), channel_id=7, replica_groups=[1,4]<=[4], \
dimensions={0}, metadata={op_name="jit(step)/optimizer/add"}
  ROOT %begun = (f32[16,8]{1,0}, f32[64,8]{1,0}) custom-call(%weights), \
custom_call_target="AsyncCollectiveStart"
}

%end (p3: f32[16,8]) -> f32[64,8] {
  %p3 = f32[16,8]{1,0} parameter(0)
  %weights.1 = f32[64,8]{1,0} all-gather(%p3), channel_id=7, replica_groups=[1,4]<=[4], \
dimensions={0}
  ROOT %ended = f32[64,8]{1,0} custom-call(%weights.1), custom_call_target="AsyncCollectiveDone"
}

%scatter (p4: f32[64,8]) -> f32[16,8] {
  %p4 = f32[64,8]{1,0} parameter(0)
  %summed = f32[64,8]{1,0} all-reduce(%p4), channel_id=8, replica_groups=[1,4]<=[4], to_apply=%add
  %id = u32[] partition-id()
  ROOT %share = f32[16,8]{1,0} dynamic-slice(%summed, %id, %id), dynamic_slice_sizes={16,8}
}

%condition (p: (s32[], bf16[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(6)
  %p.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.1: bf16[8,128], y: f32[]) -> (bf16[8,128], f32[]) {
  %x.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  %weight = f32[64,8]{1,0} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%zero, %x.1)
  %loop = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) while(%start), \
condition=%condition, body=%body, \
metadata={op_name="jit(step)/jvp(Net)/encoder/while" stack_frame_id=1}
  %out = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
  %copy.1 = bf16[8,128]{0,1:T(8,128)(2,1)} copy(%out), backend_config={"estimated_cycles":"300"}
  %unknown = bf16[8,128]{0,1:T(8,128)(2,1)} fusion(%copy.1), kind=kCustom, calls=%fused, \
backend_config={"estimated_cycles":"9223372036854775807"}
  %gather = bf16[32,128]{1,0:T(8,128)(2,1)} all-gather(%out), channel_id=3, \
replica_groups=[2,4]<=[8], dimensions={0}, metadata={op_name="jit(step)/jvp(Net)/decoder/add"}
  %all-reduce.2 = (f32[]{:T(128)}, f32[64]{0:T(128)}) all-reduce(%y, %y), channel_id=4, \
replica_groups={{0,1},{2,3}}, to_apply=%add, metadata={op_name="jit(step)/losses/add"}
  %share.1 = f32[16,8]{1,0} fusion(%weight), kind=kCustom, calls=%scatter
  %async.1 = (f32[16,8]{1,0}, f32[64,8]{1,0}) fusion(%share.1), kind=kCustom, calls=%begin
  %async.2 = f32[64,8]{1,0} fusion(%async.1), kind=kCustom, calls=%end
  %total = f32[]{:T(128)} get-tuple-element(%all-reduce.2), index=0
  ROOT %r = (bf16[8,128]{0,1:T(8,128)(2,1)}, f32[]{:T(128)}) tuple(%copy.1, %total)
}
"""
