package wallet

import "testing"

// The vector of BIP 380, and one by its reference code.
func TestDescriptorChecksum(t *testing.T) {
	for descriptor, want := range map[string]string{
		"raw(deadbeef)": "89f8spxm",
		"wpkh(0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798)": "ucxz0gak", // the key 1
	} {
		if got := descriptorChecksum(descriptor); got != want {
			t.Errorf("checksum of %s is %s, want %s", descriptor, got, want)
		}
	}
}
