"""Sound in, features out: the one reader of audio, resampling, log-mel and MFCC features, augmentation."""
