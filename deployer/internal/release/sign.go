package release

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"aead.dev/minisign"
	"github.com/google/renameio/v2"
)

// SignatureSuffix is the ending of the name of a file's signature, which
// minisign(1) reads and writes as well.
const SignatureSuffix = ".minisig"

// maxKey bounds key files and signatures, in bytes.
const maxKey = 8 << 10

// Key signs releases.
type Key struct{ private minisign.PrivateKey }

// NewKey makes a key: the text of its private key, which is not encrypted, and the
// public key, which goes into manifests.
func NewKey() (private []byte, public string, err error) {
	pub, key, err := minisign.GenerateKey(rand.Reader)
	if err == nil {
		private, err = key.MarshalText()
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot make a key: %w", err)
	}
	return append(private, '\n'), pub.String(), nil
}

// LoadKey reads a private key. passphrase asks for that of an encrypted one.
func LoadKey(path string, passphrase func() (string, error)) (*Key, error) {
	text, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the signing key: %w", err)
	}
	k := &Key{}
	if !minisign.IsEncrypted(text) {
		if err := k.private.UnmarshalText(text); err != nil {
			return nil, fmt.Errorf("cannot use the signing key %s: it is not a private key of minisign; make one with deploy release key", path)
		}
		return k, nil
	}
	words, err := passphrase()
	if err != nil {
		return nil, err
	}
	if k.private, err = minisign.DecryptKey(words, text); err != nil {
		return nil, fmt.Errorf("cannot use the signing key %s: the passphrase is wrong, or the file is damaged", path)
	}
	return k, nil
}

// Public returns the public key, as it stands in manifests.
func (k *Key) Public() string {
	if pub, ok := k.private.Public().(minisign.PublicKey); ok {
		return pub.String()
	}
	return ""
}

// Sign writes a file's signature beside it and returns the signature's path.
func (k *Key) Sign(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot sign: %w", err)
	}
	defer f.Close()
	message := minisign.NewReader(f)
	if _, err := io.Copy(io.Discard, message); err != nil {
		return "", fmt.Errorf("cannot sign %s: %w", path, err)
	}
	// No time is in the comments: the same file gets the same signature.
	signature := message.SignWithComments(k.private, "signed by deploy release", "signature of deploy release")
	if err := renameio.WriteFile(path+SignatureSuffix, signature, 0o644); err != nil {
		return "", fmt.Errorf("cannot write the signature of %s: %w", path, err)
	}
	return path + SignatureSuffix, nil
}

// verify returns an error unless the signature beside a file, whose content message
// has read, is by one of the keys.
func verify(path string, message *minisign.Reader, keys []string) error {
	signature, err := readSmall(path + SignatureSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not signed: there is no %s; get its signature, or sign it with deploy release sign", path, path+SignatureSuffix)
	}
	if err != nil {
		return fmt.Errorf("cannot read the signature of %s: %w", path, err)
	}
	for _, text := range keys {
		var key minisign.PublicKey
		if err := key.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("%q is not a public key of minisign; deploy release key prints one", text)
		}
		if message.Verify(key, signature) {
			return nil
		}
	}
	return fmt.Errorf("the signature %s is not of this archive by one of the release's public_keys; get the right archive and signature, or name the key of who signed it if you trust them", path+SignatureSuffix)
}

// readSmall reads a file of at most maxKey bytes.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err == nil && len(text) > maxKey {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxKey)
	}
	return text, err
}
