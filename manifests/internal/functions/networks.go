package functions

import (
	"fmt"
	"math/big"
	"net/netip"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// prefixArg reads the first argument, a network such as "10.0.0.0/8".
func prefixArg(v cty.Value) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(v.AsString())
	if err != nil {
		return p, function.NewArgErrorf(0, "not a network such as \"10.0.0.0/8\"")
	}
	return p.Masked(), nil
}

// intArg reads a whole number that fits an int.
func intArg(i int, v cty.Value) (int, error) {
	n, exact := v.AsBigFloat().Int64()
	if exact != big.Exact || int64(int(n)) != n {
		return 0, function.NewArgErrorf(i, "must be a whole number")
	}
	return int(n), nil
}

// offset adds n to the address.
func offset(a netip.Addr, n *big.Int) (netip.Addr, bool) {
	sum := new(big.Int).Add(new(big.Int).SetBytes(a.AsSlice()), n)
	if sum.Sign() < 0 || sum.BitLen() > a.BitLen() {
		return a, false
	}
	return netip.AddrFromSlice(sum.FillBytes(make([]byte, a.BitLen()/8)))
}

var cidrHost = function.New(&function.Spec{
	Params:       []function.Parameter{stringParam("prefix"), {Name: "hostnum", Type: cty.Number}},
	Type:         function.StaticReturnType(cty.String),
	RefineResult: notNull,
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		p, err := prefixArg(args[0])
		if err != nil {
			return cty.UnknownVal(cty.String), err
		}
		n, err := intArg(1, args[1])
		if err != nil {
			return cty.UnknownVal(cty.String), err
		}
		number := big.NewInt(int64(n))
		size := new(big.Int).Lsh(big.NewInt(1), uint(p.Addr().BitLen()-p.Bits()))
		if n < 0 { // counted from the end
			number.Add(number, size)
		}
		if number.Sign() < 0 || number.Cmp(size) >= 0 {
			return cty.UnknownVal(cty.String), function.NewArgErrorf(1, "%s has no host number %d", p, n)
		}
		host, _ := offset(p.Addr(), number)
		return cty.StringVal(host.String()), nil
	},
})

var cidrNetmask = function.New(&function.Spec{
	Params:       []function.Parameter{stringParam("prefix")},
	Type:         function.StaticReturnType(cty.String),
	RefineResult: notNull,
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		p, err := prefixArg(args[0])
		if err != nil {
			return cty.UnknownVal(cty.String), err
		}
		if !p.Addr().Is4() {
			return cty.UnknownVal(cty.String), function.NewArgErrorf(0, "IPv6 networks have no netmask")
		}
		mask, _ := netip.AddrFrom4([4]byte{255, 255, 255, 255}).Prefix(p.Bits())
		return cty.StringVal(mask.Addr().String()), nil
	},
})

var cidrSubnet = function.New(&function.Spec{
	Params: []function.Parameter{
		stringParam("prefix"), {Name: "newbits", Type: cty.Number}, {Name: "netnum", Type: cty.Number},
	},
	Type:         function.StaticReturnType(cty.String),
	RefineResult: notNull,
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		p, err := prefixArg(args[0])
		if err != nil {
			return cty.UnknownVal(cty.String), err
		}
		bits, err := intArg(1, args[1])
		if err != nil {
			return cty.UnknownVal(cty.String), err
		}
		n, err := intArg(2, args[2])
		if err != nil {
			return cty.UnknownVal(cty.String), err
		}
		length := p.Bits() + bits
		if bits < 0 || length > p.Addr().BitLen() {
			return cty.UnknownVal(cty.String), function.NewArgErrorf(1, "%s cannot be split by %d bits", p, bits)
		}
		number := big.NewInt(int64(n))
		if n < 0 || number.BitLen() > bits {
			return cty.UnknownVal(cty.String), function.NewArgErrorf(2, "%d bits have no network number %d", bits, n)
		}
		a, _ := offset(p.Addr(), number.Lsh(number, uint(p.Addr().BitLen()-length)))
		return cty.StringVal(netip.PrefixFrom(a, length).String()), nil
	},
})

var cidrSubnets = function.New(&function.Spec{
	Params:   []function.Parameter{stringParam("prefix")},
	VarParam: &function.Parameter{Name: "newbits", Type: cty.Number},
	Type:     function.StaticReturnType(cty.List(cty.String)),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		unknown := cty.UnknownVal(cty.List(cty.String))
		p, err := prefixArg(args[0])
		if err != nil {
			return unknown, err
		}
		if len(args) == 1 {
			return cty.ListValEmpty(cty.String), nil
		}
		var subnets []cty.Value
		next := p.Addr() // the first address that is not taken
		full := false
		for i, arg := range args[1:] {
			bits, err := intArg(i+1, arg)
			if err != nil {
				return unknown, err
			}
			length := p.Bits() + bits
			if bits < 1 || length > p.Addr().BitLen() {
				return unknown, function.NewArgErrorf(i+1, "%s cannot be split by %d bits", p, bits)
			}
			// A network begins at a multiple of its size: round up.
			size := new(big.Int).Lsh(big.NewInt(1), uint(p.Addr().BitLen()-length))
			start := new(big.Int).SetBytes(next.AsSlice())
			if rest := new(big.Int).Mod(start, size); rest.Sign() > 0 {
				start.Add(start, size).Sub(start, rest)
			}
			a, fits := offset(p.Addr(), start.Sub(start, new(big.Int).SetBytes(p.Addr().AsSlice())))
			if full || !fits || !p.Contains(a) {
				return unknown, fmt.Errorf("%s has no room for all of these networks", p)
			}
			subnets = append(subnets, cty.StringVal(netip.PrefixFrom(a, length).String()))
			if next, fits = offset(a, size); !fits {
				full = true
			}
		}
		return cty.ListVal(subnets), nil
	},
})
