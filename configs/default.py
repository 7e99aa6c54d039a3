"""Every field once, with unit and meaning; the values are the paper's where it gives them.

Not an experiment by itself: the other files of this folder start from it.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.detector = "vtadl"  # which method: a name of vtadl_jax.models.DETECTORS
    c.seed = 0  # of parameters, shuffling, noise and the held-out split
    c.image_size = (512, 512)  # (height, width) in pixels that the network sees
    c.dtype = "float32"  # of matrix products; 'bfloat16' on accelerators. Densities stay float32
    c.batch_size = 8  # images a step, over all devices
    c.num_train_steps = 0  # 0: num_epochs over the training images instead
    c.num_epochs = 400  # 0 too: no steps, for detectors that are fitted
    c.init_from = ""  # pretrained weights to start from: .npz, .safetensors, .pt; empty: random
    c.init_pixels = "unit"  # what it was trained on: 'unit' [-1, 1]; 'imagenet' mean and deviation

    c.data = ConfigDict()
    c.data.source = "mvtec_layout"  # where the images are: a name of vtadl_jax.data.sources
    c.data.root = ""  # folder of the data, as the source has it
    c.data.category = ""  # sub-folder, product or normal class; empty: root itself is the category
    c.data.defects = ()  # kinds of defect to test on; empty: all
    c.data.bad = ""  # source 'folder': folder of defective images, if root holds only good ones
    c.data.masks = ""  # source 'folder': their masks, in the same sub-folders
    c.data.test_fraction = 0.2  # of the good images, to test on, where the set has no split
    c.data.anomaly_fraction = 0.0  # anomalies in training, per normal image, for supervised methods
    c.data.balanced_test = False  # one-class sets: only as many anomalies as normal test images
    c.data.resize = ()  # (height, width) before the centre crop to image_size; empty: no crop
    c.data.fit = "stretch"  # to that size; 'pad' and 'crop' keep the aspect
    c.data.channels = 3  # 3: RGB, 1: grey, 0: as the training images are
    c.data.holdout_fraction = 0.1  # of the good training images, kept for calibration only; up to
    # eight in any case, while that is a fifth of them at most
    c.data.cache = "none"  # 'host', 'device': decode the training images once, keep them there
    c.data.num_threads = 4  # that decode images
    c.data.prefetch = 16  # batches decoded ahead

    c.data.augment = ConfigDict()  # of training images, in the compiled step
    c.data.augment.flip_horizontal = False  # of every second image
    c.data.augment.flip_vertical = False
    c.data.augment.rotation_degrees = 0.0  # up to so many, either way
    c.data.augment.brightness = 0.0  # added, up to this part of the range, either way
    c.data.augment.contrast = 0.0  # times 1 ± up to this, about the image's mean
    c.data.augment.saturation = 0.0  # times 1 ± up to this, about its grey

    c.model = ConfigDict()
    c.model.patch_size = 64  # pixels
    c.model.width = 512  # of a token
    c.model.depth = 6
    c.model.num_heads = 8
    c.model.mlp_dim = 1024
    c.model.class_token = True  # the extra row of the paper's position table
    c.model.qkv_bias = False  # on queries, keys and values; pretrained encoders: True
    c.model.final_norm = False  # a LayerNorm on the encoded tokens; pretrained encoders: True
    c.model.norm_epsilon = 1e-5  # of the encoder's LayerNorms; pretrained encoders: 1e-6
    c.model.remat = False  # recompute a block's activations in the backward pass

    c.model.decoder = ConfigDict()
    c.model.decoder.sees = "vector"  # projected from all tokens; 'mean': from their mean; 'tokens':
    # no vector and no convolutions, a linear layer makes each token the pixels of its patch
    c.model.decoder.vector_dim = 512  # length of the reconstruction vector
    c.model.decoder.features = (64, 64, 32, 16)  # channels of the four hidden layers
    c.model.decoder.norm_statistics = "global"  # of batch norm, over the whole batch; 'device': of
    # each device's share, as is common with pmap: numbers then depend on the number of devices

    c.model.autoencoder = ConfigDict()  # detector 'autoencoder'
    c.model.autoencoder.latent_dim = 128  # numbers that an image is squeezed into

    c.model.mdn = ConfigDict()
    c.model.mdn.num_components = 150
    c.model.mdn.feature_dim = 16  # what the density is of: the token projected to so many numbers
    c.model.mdn.fixed_features = False  # True: along constant random directions, not learned ones
    c.model.mdn.covariance = "full"  # or 'diag'
    c.model.mdn.conditional = True  # False: one mixture shared by all tokens
    c.model.mdn.scale_floor = 0.05  # least diagonal of a factor; features have unit scale
    c.model.mdn.noise_std = 0.2  # of the noise on the tokens, in training only
    c.model.mdn.noisy_features = False  # True: on what the density is of, too
    c.model.mdn.stop_gradient = False  # True: the density does not train the encoder

    c.model.features = "filters"  # of detectors that model fixed responses; 'efficientnet_lite0':
    # of a network frozen as init_from brings it
    c.model.filters = ConfigDict()
    c.model.filters.stride = 8  # pixels from one place of the grid to the next
    c.model.filters.sigmas = (1, 2, 4, 8)  # pixels, of the Gaussians; powers of two
    c.model.filters.normalise = False  # True: each image's logarithm, to zero mean and unit spread
    c.model.filters.radii = (2,)  # of the rings of surroundings, in places of the grid
    c.model.filters.color = False  # True: of RGB images, colour and how it varies, at each place
    c.model.filters.windows = (1, 4, 8)  # sides, in places of the grid, of what a density is of
    c.model.filters.position = False  # True: the place, too, is what a density is conditioned on

    c.model.edges = ConfigDict()  # detector 'image_mixture'
    c.model.edges.stride = 4  # pixels from one cell to the next
    c.model.edges.num_orientations = 8
    c.model.edges.sigma = 1.0  # pixels, of the smoothing before differences are taken

    c.loss = ConfigDict()
    c.loss.nll_weight = 1.0  # on the mean nll of a token
    c.loss.mse_weight = 5.0
    c.loss.ssim_weight = 0.5  # on 1 - SSIM

    c.optimizer = ConfigDict()
    c.optimizer.learning_rate = 1e-4
    c.optimizer.weight_decay = 1e-4  # L2, added to the gradient before Adam as torch.optim.Adam
    c.optimizer.schedule = "constant"  # or 'cosine', down to zero
    c.optimizer.warmup_steps = 0  # linear, from zero
    c.optimizer.clip_norm = 0.0  # global gradient norm; 0: no clipping
    c.optimizer.ema_decay = 0.0  # of the weights that are evaluated; 0: no average

    c.mesh = ConfigDict()  # data × fsdp devices share a batch
    c.mesh.data = -1  # groups of devices, each with a whole copy of the state; -1: all there are
    c.mesh.fsdp = 1  # devices a group, which share its parameters and optimiser state

    c.train = ConfigDict()
    c.train.parallel = "jit"  # 'pmap': one device's program mapped over all. The same numbers
    c.train.share_update = True  # moments and update by all devices, a share each (ZeRO-1): same
    # numbers, less memory; 'pmap' keeps them whole
    c.train.accumulate = 1  # parts of a batch worked on in turn; the same numbers, less memory

    c.log_every_steps = 10
    c.eval_every_steps = 0  # 0: at the end only
    c.checkpoint_every_steps = 200
    c.keep_checkpoints = 2  # the newest
    c.keep_best = ""  # and the best by this: a score term's mean over held-out images (least), or
    # image_auroc, pixel_auroc, aupro of an evaluation (most); '': the first term, 'none': no more

    c.profile = ConfigDict()  # a trace of some steps, into the workdir's profile/
    c.profile.first_step = 10  # of this process, counted from 0
    c.profile.num_steps = 0  # 0: no trace
    c.profile.memory = False  # also what is in device memory after them, for pprof

    c.eval = ConfigDict()
    c.eval.batch_size = 8
    c.eval.map_sigma = 4.0  # pixels, Gaussian smoothing of the map; 0: none
    c.eval.term_weights = (1.0, 1.0, 1.0)  # of the standardised mse, 1 - SSIM and largest nll
    c.eval.original_size = False  # True: pixel metrics on each image's own pixels, padding left out
    c.eval.fpr_limit = 0.3  # of AU-PRO
    c.eval.image_false_alarm_rate = 0.05  # of good images, for which the threshold is calibrated
    c.eval.pixel_false_alarm_rate = 0.01  # of the pixels of good images
    c.eval.image_threshold = placeholder(float)  # fixed by you; None: calibrated
    c.eval.pixel_threshold = placeholder(float)
    c.eval.num_bootstrap = 0  # resamples of the images for 95 % intervals, as 1000; 0: none
    c.eval.num_pictures = 200  # overlays written, spread over the defects; -1: all
    return c.lock()
