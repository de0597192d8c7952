package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Encryption says how secrets.json is encrypted (age-encryption.org/v1,
// armored). It lies inside of what it encrypts, so that nobody who cannot read
// the secrets can add a recipient. Exactly one field is set.
type Encryption struct {
	Passphrase bool     `json:"passphrase,omitempty"`
	Recipients []string `json:"recipients,omitempty"` // "age1..."
}

// Keys open and close what is encrypted. A Keys serves one deployment: it asks
// for the passphrase once at most, and remembers what it opened last, so that
// what did not change is not encrypted anew (no two encryptions are the same).
type Keys struct {
	// Ask returns the passphrase; confirm tells that it is a new one. Nil: there
	// is nobody to ask.
	Ask func(confirm bool) (string, error)
	// IdentityFile holds the age identities that open what is encrypted for
	// recipients; "" is none.
	IdentityFile string

	// workFactor is the logarithm of what trying a passphrase costs; 0 is age's
	// own, about a second.
	workFactor int

	mu             sync.Mutex
	passphrase     string
	sealed, opened []byte // the last encrypted text and what it says
}

// ErrNoKey is returned when something is encrypted and the key for it was not given.
var ErrNoKey = errors.New("it is encrypted and no key was given: set DEPLOY_PASSPHRASE, or DEPLOY_IDENTITY to the path of an age identity file")

// Encrypted tells whether data is an encrypted file.
func Encrypted(data []byte) bool { return bytes.HasPrefix(data, []byte(armor.Header)) }

// errCutOff is in the chain of errors about encrypted data that is not whole, whoever
// has the key.
var errCutOff = errors.New("it is cut off or damaged")

// Open decrypts what Seal made, with the passphrase or the identities,
// whichever it was made for.
func (k *Keys) Open(data []byte) ([]byte, error) {
	if k == nil {
		return nil, ErrNoKey
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sealed != nil && bytes.Equal(data, k.sealed) {
		return k.opened, nil
	}
	if _, err := io.Copy(io.Discard, armor.NewReader(bytes.NewReader(data))); err != nil {
		return nil, fmt.Errorf("%w: %w", errCutOff, err)
	}
	identities := []age.Identity{passphraseIdentity{k}}
	if k.IdentityFile != "" {
		more, err := readIdentities(k.IdentityFile)
		if err != nil {
			return nil, err
		}
		identities = append(identities, more...)
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(data)), identities...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none) && k.IdentityFile == "":
		return nil, ErrNoKey
	case errors.As(err, &none):
		return nil, fmt.Errorf("no identity in %s opens it: it was encrypted for others", k.IdentityFile)
	case err != nil:
		return nil, err
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCutOff, err)
	}
	k.sealed, k.opened = bytes.Clone(data), plain
	return plain, nil
}

// Seal encrypts. The plain text that was opened or sealed last gives the same
// encrypted text again.
func (k *Keys) Seal(plain []byte, how Encryption) ([]byte, error) {
	if k == nil {
		return nil, ErrNoKey
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sealed != nil && bytes.Equal(plain, k.opened) {
		return k.sealed, nil
	}
	recipients, err := k.recipients(how)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	text := armor.NewWriter(&out)
	w, err := age.Encrypt(text, recipients...)
	if err != nil {
		return nil, fmt.Errorf("cannot encrypt: %w", err)
	}
	_, err = w.Write(plain)
	if err := errors.Join(err, w.Close(), text.Close()); err != nil {
		return nil, fmt.Errorf("cannot encrypt: %w", err)
	}
	k.sealed, k.opened = out.Bytes(), bytes.Clone(plain)
	return k.sealed, nil
}

func (k *Keys) recipients(how Encryption) ([]age.Recipient, error) {
	if !how.Passphrase {
		return parseRecipients(how.Recipients)
	}
	passphrase, err := k.ask(true)
	if err != nil {
		return nil, err
	}
	r, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, fmt.Errorf("cannot use the passphrase: %w", err)
	}
	if k.workFactor != 0 {
		r.SetWorkFactor(k.workFactor)
	}
	return []age.Recipient{r}, nil
}

// Check tells what is wrong with a wish to encrypt, before anything is done.
func (e Encryption) Check() error {
	if e.Passphrase == (len(e.Recipients) > 0) {
		return errors.New("cannot encrypt: give either a passphrase or recipients")
	}
	if e.Passphrase {
		return nil
	}
	_, err := parseRecipients(e.Recipients)
	return err
}

func parseRecipients(lines []string) ([]age.Recipient, error) {
	r, err := age.ParseRecipients(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		return nil, fmt.Errorf("cannot use the recipients: %w; a recipient begins with age1; age-keygen prints it as public key", err)
	}
	return r, nil
}

func readIdentities(file string) ([]age.Identity, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the age identities: %w", err)
	}
	defer f.Close()
	identities, err := age.ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("cannot read the age identities in %s: %w", file, err)
	}
	return identities, nil
}

// ask returns the passphrase, asked for once. k.mu is held.
func (k *Keys) ask(confirm bool) (string, error) {
	if k.passphrase != "" {
		return k.passphrase, nil
	}
	if k.Ask == nil {
		return "", ErrNoKey
	}
	passphrase, err := k.Ask(confirm)
	if err != nil {
		return "", err
	}
	if passphrase == "" {
		return "", errors.New("cannot use an empty passphrase")
	}
	k.passphrase = passphrase
	return passphrase, nil
}

// passphraseIdentity asks for the passphrase only when something needs one.
type passphraseIdentity struct{ keys *Keys }

// Unwrap implements age.Identity.
func (p passphraseIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	if len(stanzas) != 1 || stanzas[0].Type != "scrypt" {
		return nil, age.ErrIncorrectIdentity
	}
	passphrase, err := p.keys.ask(false)
	if err != nil {
		return nil, err
	}
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, fmt.Errorf("cannot use the passphrase: %w", err)
	}
	key, err := identity.Unwrap(stanzas)
	if errors.Is(err, age.ErrIncorrectIdentity) {
		p.keys.passphrase = ""
		return nil, errors.New("the passphrase is wrong")
	}
	return key, err
}
