package s3

import (
	"bytes"
	"io"

	"github.com/minio/sio"
)

// SealedSize, PlainCapacity and SealedChunk are the sizes of the stored format.
const SealedChunk = sealedChunk

// SealedSize is sealedSize.
func SealedSize(plain int64) int64 { return sealedSize(plain) }

// PlainCapacity is plainCapacity.
func PlainCapacity(size int64) int64 { return plainCapacity(size) }

// Seal encrypts as PutDocument does.
func Seal(key [32]byte, plain []byte) ([]byte, error) {
	var sealed bytes.Buffer
	_, err := sio.Encrypt(&sealed, bytes.NewReader(plain), dareConfig(key, 0))
	return sealed.Bytes(), err
}

// Decrypt reads a range of a document of that size from its chunks, as
// OpenDocument does once they have arrived.
func Decrypt(key [32]byte, sealed io.Reader, offset, length, size int64) ([]byte, error) {
	r, err := decrypt(sealed, key, plainRange{offset: offset, length: length, size: size})
	if err != nil {
		return nil, err
	}
	if err := r.skip(); err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Buffers reports how many upload buffers are in use.
func (s *Store) Buffers() int {
	return len(s.small.slots) + len(s.parts.slots) + len(s.sealedParts.slots)
}
