package wallet

import (
	"encoding/hex"
	"strings"
)

// Descriptor is the key as an output descriptor with its checksum (BIP 380, BIP
// 382): wpkh(PUBLIC KEY)#CHECKSUM. Whoever has it can watch the address, and
// spend nothing.
func (k *Key) Descriptor() string {
	d := "wpkh(" + hex.EncodeToString(k.private.PubKey().SerializeCompressed()) + ")"
	return d + "#" + descriptorChecksum(d)
}

// The two alphabets of BIP 380.
const (
	descriptorInput      = "0123456789()[],'/*abcdefgh@:$%{}IJKLMNOPQRSTUVWXYZ&+-.;<=>?!^_|~ijklmnopqrstuvwxyzABCDEFGH`#\"\\ "
	descriptorChecksum32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
)

// descriptorChecksum is the checksum of BIP 380 over characters of its alphabet.
func descriptorChecksum(descriptor string) string {
	c, class, classes := uint64(1), 0, 0
	for _, r := range descriptor {
		pos := strings.IndexRune(descriptorInput, r)
		c = descriptorPolyMod(c, pos&31)
		class = class*3 + pos>>5
		if classes++; classes == 3 {
			c = descriptorPolyMod(c, class)
			class, classes = 0, 0
		}
	}
	if classes > 0 {
		c = descriptorPolyMod(c, class)
	}
	for range 8 {
		c = descriptorPolyMod(c, 0)
	}
	c ^= 1
	var sum [8]byte
	for i := range sum {
		sum[i] = descriptorChecksum32[c>>(5*(7-i))&31]
	}
	return string(sum[:])
}

// descriptorPolyMod is one step of BIP 380's checksum.
func descriptorPolyMod(c uint64, value int) uint64 {
	top := c >> 35
	c = (c&0x7ffffffff)<<5 ^ uint64(value)
	for i, g := range [...]uint64{0xf5dee51989, 0xa9fdca3312, 0x1bab10e32d, 0x3706b1677a, 0x644d626ffd} {
		if top>>i&1 != 0 {
			c ^= g
		}
	}
	return c
}
