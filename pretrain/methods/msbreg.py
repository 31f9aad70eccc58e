"""MSBReg (Moon et al., arXiv 2207.03552): centroid, singular value and Brownian losses."""

from collections.abc import Sequence

from torch import Tensor

from msbreg.run.host_to_device import to_device
from msbreg.train.loop import Loss
from pretrain.losses import msbreg_loss, other_views
from pretrain.methods.method import Moment, Outputs, WithTarget, step_noise


class MSBReg(WithTarget):
    """Eq. 2 of the paper, with predictions of the online network and projections of the target network."""

    def loss(
        self,
        outputs: Sequence[Outputs],  # of one view: predictions (B, D)
        targets: Tensor,  # (K, N, D)
        at: Moment,
    ) -> Loss:
        config, options = self.config, self.config.loss
        local = outputs[0][0][None]  # (1, B, D)
        predictions = at.gather(local[0])[None]  # (1, N, D)
        noise = step_noise(config.seed, at.step, *predictions.shape[1:], share=options.noise_share)
        loss = msbreg_loss(
            predictions,
            targets if options.include_self else other_views(targets, at.view),
            to_device(noise, predictions.device),
            lambda_s=config.lambda_s,
            lambda_b=config.lambda_b,
            singular_input=options.singular_input,
            singular_of=predictions if options.singular_sync else local,
            normalize_noise=options.normalize_noise,
        )
        return Loss(loss.total, loss._asdict())
