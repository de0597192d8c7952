package api

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Name is the address of an instance of the deployment.
type Name struct {
	Instance string `json:"instance"`
	Address  string `json:"address"`
}

// NamesDigest names a list of names in their order, with the host name that a VM has
// beside them; "" for an empty list.
func NamesDigest(host string, names []Name) string {
	if len(names) == 0 {
		return ""
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", host)
	for _, n := range names {
		fmt.Fprintf(h, "%q %q\n", n.Instance, n.Address)
	}
	return hex.EncodeToString(h.Sum(nil))
}
