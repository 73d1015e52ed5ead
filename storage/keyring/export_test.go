package keyring

// Parse reads the text of a ring as Load does, without a file.
func Parse(data []byte) (*Ring, error) {
	f, err := decode(data)
	if err != nil {
		return nil, err
	}
	return newRing(f)
}

// Reveal is the raw data key.
func (k DataKey) Reveal() [KeySize]byte { return k.key }
