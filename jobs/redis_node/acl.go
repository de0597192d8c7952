package redisnode

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/clusterworks/deploy/jobs/component/node"
)

// administrator is the node's own user of each server. Its password is the
// instance's Secret.
const administrator = "administrator"

// may lists what users may do: all with their data, nothing with the server. Of the
// dangerous commands those come back that concern data only.
var may = []string{
	"~*", "&*", "+@all", "-@admin", "-@dangerous", "+keys", "+flushdb", "+flushall", "+sort", "+sort_ro", "+info", "+restore", "+swapdb",
}

// hash is a password as the server keeps it: passwords are in no file of a server.
func hash(password string) string {
	sum := sha256.Sum256([]byte(password))
	return "#" + hex.EncodeToString(sum[:])
}

// aclFile is the file of a server's users, without any if the instance is disabled. The user default, whom clients are that
// give a password without a name, has the passwords of all.
func aclFile(i node.Instance, users []node.Binding) string {
	line := func(name, state string, hashes []string, rules []string) string {
		return strings.Join(append(append([]string{"user", name, state}, hashes...), rules...), " ") + "\n"
	}
	text := line(administrator, "on", []string{hash(i.Secret)}, []string{"~*", "&*", "+@all"})
	if i.Disabled {
		return text + line("default", "off", nil, nil)
	}
	users = append([]node.Binding{{User: i.User, Password: i.Password}}, users...)
	var all []string
	for _, b := range users {
		text += line(b.User, "on", []string{hash(b.Password)}, may)
		all = append(all, hash(b.Password))
	}
	return text + line("default", "on", all, may)
}

// admit are the commands that let a user in. Passwords are hashed in them.
func admit(b node.Binding) [][]any {
	return [][]any{
		setUser(b.User, append([]string{"reset", "on", hash(b.Password)}, may...)),
		setUser("default", append([]string{"on", hash(b.Password)}, may...)),
	}
}

// dismiss are the commands that keep a user out and end its connections.
func dismiss(b node.Binding) [][]any {
	return [][]any{
		{"ACL", "DELUSER", b.User},
		setUser("default", []string{"!" + strings.TrimPrefix(hash(b.Password), "#")}),
		{"CLIENT", "KILL", "USER", "default"},
	}
}

func setUser(name string, rules []string) []any {
	command := []any{"ACL", "SETUSER", name}
	for _, r := range rules {
		command = append(command, r)
	}
	return command
}
