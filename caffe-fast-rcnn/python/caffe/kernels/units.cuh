// Sums that do not depend on the order of their terms, which many elements add at once: they are made of whole numbers,
// gradients in units that the largest one chooses, 2^-48 of it at most for up to 4,096 terms.
#pragma once

#include "grid.cuh"

// Gradients as whole numbers: the unit is a power of 2 small enough to matter to no float, and large enough for `terms`
// of the largest size to have room in 62 bits; not below 2^-126.
struct Units {
    const float* most;  // the largest size of a gradient, on the device
    int room;           // bits for the number of terms

    Units(const float* most, int64_t terms) : most(most), room(1) {
        while (int64_t(1) << (room - 1) < terms) ++room;
    }
    BOTH bool finite() const { return *most - *most == 0; }
    BOTH int exponent() const {
        int of_most;
        frexpf(*most, &of_most);
        int result = 62 - room - of_most;
        return result < 126 ? result : 126;
    }
    BOTH float factor() const { return ldexpf(1.f, exponent()); }
};

// sum (count) in units -> bottom (count); all of it not a number where a gradient is not finite
struct FromUnits {
    Units units;
    const int64_t* sum;
    float* bottom;

    BOTH void operator()(int64_t i) const {
        bottom[i] = units.finite() ? float(sum[i]) * ldexpf(1.f, -units.exponent()) : NAN;
    }
};
