package sqldb

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// Config says which database is used, as an entry of ActiveRecord's
// database_environment.
type Config struct {
	Adapter  string `yaml:"adapter"` // sqlite3, postgresql
	Database string `yaml:"database"`
	Host     string `yaml:"host"`
	Port     int    `yaml:"port"`
	Username string `yaml:"username"`
	Password string `yaml:"password"`
	// SSLMode is libpq's, prefer if absent; SSLRootCert a PEM file.
	SSLMode     string `yaml:"sslmode"`
	SSLRootCert string `yaml:"sslrootcert"`
}

// URI returns the URI of the database, for Open.
func (db Config) URI() (string, error) {
	switch db.Adapter {
	case "sqlite3", "sqlite":
		file, err := filepath.Abs(db.Database)
		if err != nil || db.Database == "" {
			return "", fmt.Errorf("the sqlite3 database %q is no file", db.Database)
		}
		return "sqlite://" + file, nil
	case "postgresql", "postgres":
		u := url.URL{Scheme: "postgres", User: url.UserPassword(db.Username, db.Password), Path: "/" + db.Database}
		if strings.HasPrefix(db.Host, "/") { // the folder of a unix socket
			u.RawQuery = url.Values{"host": {db.Host}, "port": {strconv.Itoa(db.Port)}}.Encode()
			return u.String(), nil
		}
		u.Host = net.JoinHostPort(db.Host, strconv.Itoa(db.Port))
		query := url.Values{}
		for name, value := range map[string]string{"sslmode": db.SSLMode, "sslrootcert": db.SSLRootCert} {
			if value != "" {
				query.Set(name, value)
			}
		}
		u.RawQuery = query.Encode()
		return u.String(), nil
	}
	return "", fmt.Errorf("the database's adapter %q is neither postgresql nor sqlite3", db.Adapter)
}
