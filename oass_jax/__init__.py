"""Object-Aware Self-Supervised Multi-Label Learning (OASS) in JAX.

Xu Kaixin, Liu Liyang, Zhao Ziyuan, Zeng Zeng, Bharadwaj Veeravalli: "Object-Aware Self-Supervised
Multi-Label Learning", ICIP 2022. PuzzleCAM (Jo and Yu, ICIP 2021), its baseline, is the same loop
with other values of the config.

Where the paper is:

    Sec. 2.1, Eq. 1, k'         method/keypoint.py     class maps -> the cell where the image is cut
    Sec. 2.1, cut and tile      method/puzzle.py       four patches, and their maps back in place
    Sec. 2.1, Loss Design       method/loss.py         L_cls, L_p-cl, L_re and their weights
    Sec. 2.1, channel-wise      training/pairs.py      labelled (image, class) pairs, in chunks
    Sec. 2.1, EMA; Fig. 3       training/step.py       the training step in one screen
                                training/losses.py     the networks run for its three losses
    Sec. 2.2                    method/csi.py          class-specific instances
    Sec. 3.1                    image/augment.py       random resize, flip, crop or pad
    Tables 1 to 3               figures/paper.py       the paper's figures, and the row a run is of
    f(x; theta), g(.; phi)      model/network.py       encoder f and classifier g
    Table 1, MCAR               method/mcar.py         regions of the strongest classes, seen again
    Table 1, SSGRL              model/ssgrl.py         a graph network over the classes

Symbols in shapes:

    B  batch                                  s  output stride, 16
    H, W  image size in pixels                D  feature channels (2048)
    h, w  H / s and W / s, feature cells      C  classes, never image channels
    N  examples: images, pairs or patches     P  labelled (image, class) pairs

Channels are last everywhere. Coordinates name their order and unit (`keypoint_yx`, `_px`, `_cell`);
boxes are ymin, xmin, ymax, xmax in [0, 1].
"""
